# SP: similarity-preserving distillation (Tung and Mori, ICCV 2019)
sp = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(sp=dict(loss=dict(type='SPLoss', loss_weight=3000.0), features='last_map')),
)
