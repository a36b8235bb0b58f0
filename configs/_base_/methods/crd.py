# CRD: contrastive representation distillation (Tian et al., ICLR 2020), with a memory of all images
crd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        crd=dict(
            loss=dict(type='ContrastiveRepresentationLoss', loss_weight=0.8),
            features='pooled',
            student_connector=dict(type='LinearProjection'),
            teacher_connector=dict(type='LinearProjection'),
        )
    ),
)
