_base_ = [
    '../models/res14.py',
    '../models/res20.py',
    '../datasets/digits.py',
    '../schedules/demo_40e.py',
    '../runtimes/default.py',
]
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('res14'),
    teacher=_base_.pop('res20'),
    teacher_ckpt='work_dirs/demo/teacher/epoch_20.pth',
)
model['architecture'].head.num_classes = 10
model['teacher'].head.num_classes = 10
train_dataloader = dict(dataset=dict(indices=100))
