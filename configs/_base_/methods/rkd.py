# RKD: relational knowledge distillation (Park et al., CVPR 2019)
rkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(rkd=dict(loss=dict(type='RKDLoss'), features='pooled')),
)
