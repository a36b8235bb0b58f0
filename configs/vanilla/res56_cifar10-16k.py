_base_ = [
    '../_base_/models/res56.py',
    '../_base_/datasets/cifar10-16k.py',
    '../_base_/schedules/cifar_8e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('res56')
model.head.num_classes = 10
