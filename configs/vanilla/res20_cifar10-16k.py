_base_ = [
    '../_base_/models/res20.py',
    '../_base_/datasets/cifar10-16k.py',
    '../_base_/schedules/cifar_8e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('res20')
model.head.num_classes = 10
