# KD: Distilling the Knowledge in a Neural Network (Hinton et al., arXiv 1503.02531)
kd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    student_loss_weight=0.1,
    losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=4.0, loss_weight=0.9), features='logits')),
)
# beside another method: "+KD" of the published tables
kd_beside = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=4.0), features='logits')),
)
