# + score distillation; the student still searches in its own gallery
_base_ = ['./digits_direct.py', '../_base_/retrieval/distiller.py']
_base_.pop('matching')
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(_scope_='mmpretrain', **_base_.pop('model')),
    teacher='icd_mmrazor::embeddistill/digits_teacher.py',
    teacher_ckpt='work_dirs/digits_teacher/epoch_40.pth',
    distiller=dict(type='FeatureDistiller', losses=dict(scores=_base_.pop('scores'))),
)
# the student's own loss is the one-hot term
model['distiller']['losses']['scores']['loss']['one_hot_weight'] = 0.0
