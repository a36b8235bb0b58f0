# VID: variational information distillation (Ahn et al., CVPR 2019)
vid = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        vid=dict(
            loss=dict(type='VIDLoss'),
            features='maps',
            student_connector=dict(type='VIDRegressor'),
        )
    ),
)
