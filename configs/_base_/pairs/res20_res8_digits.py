_base_ = ['../../demo/res8_digits.py', '../models/res20.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('model'),
    teacher=_base_.pop('res20'),
    teacher_ckpt='work_dirs/demo/teacher/epoch_20.pth',
)
model['teacher'].head.num_classes = 10
