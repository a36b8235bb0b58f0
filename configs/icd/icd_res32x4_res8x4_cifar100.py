_base_ = [
    '../_base_/models/res32x4.py', '../_base_/models/res8x4.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_240e.py',
    '../_base_/runtimes/default.py',
]
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('res8x4'),
    teacher=_base_.pop('res32x4'),
    teacher_ckpt='work_dirs/res32x4_cifar100/epoch_240.pth',
    distiller=dict(type='ICDDistiller'),
)
