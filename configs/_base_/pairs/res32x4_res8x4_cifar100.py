_base_ = ['../../vanilla/res8x4_cifar100.py', '../models/res32x4.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('model'),
    teacher=_base_.pop('res32x4'),
    teacher_ckpt='work_dirs/res32x4_cifar100/epoch_240.pth',
)
