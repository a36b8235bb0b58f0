# HKD's first step: the auxiliary teacher, trained already, learns the teacher's pooled feature. No cross-entropy.
_base_ = [
    '../_base_/models/preact18.py',
    '../_base_/models/cnn1-a.py',
    '../_base_/datasets/cifar10_hkd.py',
    '../_base_/schedules/adam_50e.py',
    '../_base_/runtimes/default.py',
]
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=_base_.pop('cnn1_a'),
    teacher=_base_.pop('preact18'),
    teacher_ckpt='work_dirs/preact18_cifar10/epoch_80.pth',
    distiller=dict(
        type='FeatureDistiller',
        losses=dict(last=dict(loss=dict(type='InformationFlowLoss', reduction='mean'), features='pooled')),
    ),
    calculate_student_loss=False,
    predict_also=['pooled'],
)
# the auxiliary teacher, trained alone
model['architecture'].init_cfg = dict(type='Pretrained', checkpoint='work_dirs/cnn1-a_cifar10/epoch_80.pth')
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30], gamma=0.1)
train_cfg = dict(max_epochs=40, val_interval=40)
default_hooks = dict(
    # a new Adam with the lower learning rate, as released
    loss_schedule=dict(fresh_optimizer=[30]),
    # known from the teacher's own training
    distillation_report=dict(evaluate_teacher=False),
)
