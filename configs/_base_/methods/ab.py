# AB: activation boundaries (Heo et al., AAAI 2019); first 30 epochs of its own
ab = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    initial_epochs=30,
    losses=dict(
        ab=dict(
            stage='initial',
            loss=dict(type='ActivationBoundaryLoss'),
            features='preactivations',
            decay=0.5,
            student_connector=dict(type='ConvRegressor', relu=False, identity_if_equal=True),
        )
    ),
)
