_base_ = [
    '../_base_/models/wrn40-2.py', '../_base_/models/wrn16-2.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_240e.py',
    '../_base_/runtimes/default.py',
]
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('wrn16_2'),
    teacher=_base_.pop('wrn40_2'),
    teacher_ckpt='work_dirs/wrn40-2_cifar100/epoch_240.pth',
    distiller=dict(type='ICDDistiller'),
)
