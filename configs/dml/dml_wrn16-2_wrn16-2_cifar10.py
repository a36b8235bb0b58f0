_base_ = [
    '../_base_/models/wrn16-2.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_240e.py',
    '../_base_/runtimes/default.py',
    '../_base_/online/dml.py',
]
model = dict(architecture=_base_.wrn16_2, teacher=_base_.pop('wrn16_2'), **_base_.pop('dml'))
model['architecture'].head.num_classes = 10
model['teacher'].head.num_classes = 10
