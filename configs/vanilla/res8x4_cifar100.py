_base_ = [
    '../_base_/models/res8x4.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_240e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('res8x4')
