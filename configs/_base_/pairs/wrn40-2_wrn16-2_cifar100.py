_base_ = ['../../vanilla/wrn16-2_cifar100.py', '../models/wrn40-2.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('model'),
    teacher=_base_.pop('wrn40_2'),
    teacher_ckpt='work_dirs/wrn40-2_cifar100/epoch_240.pth',
)
