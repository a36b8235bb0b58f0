_base_ = [
    '../_base_/models/res56.py', '../_base_/models/res20.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_240e.py',
    '../_base_/runtimes/default.py',
]
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('res20'),
    teacher=_base_.pop('res56'),
    teacher_ckpt='work_dirs/res56_cifar100/epoch_240.pth',
    distiller=dict(type='ICDDistiller'),
)
