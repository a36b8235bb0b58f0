_base_ = ['../../vanilla/vgg8_cifar100.py', '../models/res50.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('model'),
    teacher=_base_.pop('res50'),
    teacher_ckpt='work_dirs/res50_cifar100/epoch_240.pth',
)
# published: the learning rate of the initial stage of FT is lower for ResNets only
override_ft = dict(initial_lr=None)
