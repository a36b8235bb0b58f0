_base_ = ['../../vanilla/res20_cifar10.py', '../models/res56.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('model'),
    teacher=_base_.pop('res56'),
    teacher_ckpt='work_dirs/res56_cifar10/epoch_240.pth',
)
model['teacher'].head.num_classes = 10
