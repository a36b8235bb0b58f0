_base_ = [
    '../models/res20.py',
    '../models/res56.py',
    '../datasets/cifar10-5k.py',
    '../schedules/cifar_8e.py',
    '../runtimes/default.py',
]
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('res20'),
    teacher=_base_.pop('res56'),
    teacher_ckpt='work_dirs/res56_cifar10-16k/epoch_8.pth',
)
model['architecture'].head.num_classes = 10
model['teacher'].head.num_classes = 10
# known from the teacher's own training
default_hooks = dict(distillation_report=dict(evaluate_teacher=False))
