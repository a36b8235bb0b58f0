_base_ = ['../../vanilla/mobilenetv2_cifar100.py', '../models/vgg13.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('model'),
    teacher=_base_.pop('vgg13'),
    teacher_ckpt='work_dirs/vgg13_cifar100/epoch_240.pth',
)
