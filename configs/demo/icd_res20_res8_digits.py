# the same student on the same 100 images, with the teacher's help
_base_ = ['./res8_digits.py', '../_base_/models/res20.py']
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('model'),
    teacher=_base_.pop('res20'),
    teacher_ckpt='work_dirs/demo/teacher/epoch_20.pth',
    distiller=dict(type='ICDDistiller'),
)
model['teacher'].head.num_classes = 10
