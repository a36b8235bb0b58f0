# CC: correlation congruence (Peng et al., ICCV 2019)
cc = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        cc=dict(
            loss=dict(type='CCLoss', loss_weight=0.02),
            features='pooled',
            student_connector=dict(type='LinearProjection'),
            teacher_connector=dict(type='LinearProjection'),
        )
    ),
)
