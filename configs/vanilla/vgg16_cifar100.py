_base_ = [
    '../_base_/models/vgg16.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_240e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('vgg16')
