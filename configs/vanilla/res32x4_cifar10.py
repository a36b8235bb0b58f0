_base_ = [
    '../_base_/models/res32x4.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_240e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('res32x4')
model.head.num_classes = 10
