# HKD's second step: the student, untrained, learns all layers of the auxiliary teacher. No cross-entropy.
_base_ = [
    '../_base_/models/cnn1.py',
    '../_base_/models/cnn1-a.py',
    '../_base_/datasets/cifar10_hkd.py',
    '../_base_/schedules/adam_50e.py',
    '../_base_/runtimes/default.py',
    '../_base_/methods/hkd.py',
]
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('cnn1'),
    teacher=_base_.pop('cnn1_a'),
    teacher_ckpt='work_dirs/hkd_preact18_cnn1-a_cifar10/epoch_40.pth',
    distiller=_base_.pop('hkd'),
    calculate_student_loss=False,
    predict_also=['pooled'],
)
# the scale of the release
model['distiller'].losses.flow.loss.reduction = 'mean'
model['distiller'].losses.last.loss.reduction = 'mean'
default_hooks = dict(
    # each epoch has a new Adam, as released
    loss_schedule=dict(fresh_optimizer=True),
    # known from the teacher's own training
    distillation_report=dict(evaluate_teacher=False),
)
