# FitNet: FitNets, hints for thin deep nets (Romero et al., ICLR 2015)
fitnet = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        fitnet=dict(
            loss=dict(type='L2Loss', normalize=False, div_element=True, loss_weight=100.0),
            features='map2',
            student_connector=dict(type='ConvRegressor'),
        )
    ),
)
