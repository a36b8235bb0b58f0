_base_ = ['../../vanilla/res32_cifar100.py', '../models/res110.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('model'),
    teacher=_base_.pop('res110'),
    teacher_ckpt='work_dirs/res110_cifar100/epoch_240.pth',
)
