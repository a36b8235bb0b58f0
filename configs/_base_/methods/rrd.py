# RRD: relational representation distillation (arXiv 2407.12073), with a queue of the last teacher features
rrd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    # no gradient reaches the teacher's embedding: it stays as it begins, as published
    frozen=['teacher_embedding'],
    connectors=dict(teacher_embedding=dict(type='LinearProjection')),
    losses=dict(
        rrd=dict(
            loss=dict(type='RRDLoss'),
            features='pooled',
            student_connector=dict(type='LinearProjection'),
            teacher_connector='teacher_embedding',
        )
    ),
)
