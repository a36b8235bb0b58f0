_base_ = [
    '../models/wrn16-2.py',
    '../models/wrn40-2.py',
    '../datasets/cifar10-5k.py',
    '../schedules/cifar_8e.py',
    '../runtimes/default.py',
]
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('wrn16_2'),
    teacher=_base_.pop('wrn40_2'),
    teacher_ckpt='work_dirs/wrn40-2_cifar10-16k/epoch_8.pth',
)
model['architecture'].head.num_classes = 10
model['teacher'].head.num_classes = 10
# known from the teacher's own training
default_hooks = dict(distillation_report=dict(evaluate_teacher=False))
