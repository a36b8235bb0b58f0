_base_ = [
    '../_base_/models/wrn16-2.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_240e.py',
    '../_base_/runtimes/default.py',
    '../_base_/online/one.py',
]
model = {**_base_.pop('wrn16_2'), **_base_.pop('one')}
model['head'].num_classes = 10
