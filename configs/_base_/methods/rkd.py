# RKD: relational knowledge distillation (Park et al., CVPR 2019)
rkd = dict(
    type='FeatureDistiller',
    losses=dict(rkd=dict(loss=dict(type='RKDLoss'), features='pooled')),
)
