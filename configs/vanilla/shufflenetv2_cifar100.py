_base_ = [
    '../_base_/models/shufflenetv2.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_240e_light.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('shufflenetv2')
