_base_ = [
    '../models/res8x4.py',
    '../models/res32x4.py',
    '../datasets/cifar10.py',
    '../schedules/cifar_240e.py',
    '../runtimes/default.py',
]
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('res8x4'),
    teacher=_base_.pop('res32x4'),
    teacher_ckpt='work_dirs/res32x4_cifar10/epoch_240.pth',
)
model['architecture'].head.num_classes = 10
model['teacher'].head.num_classes = 10
