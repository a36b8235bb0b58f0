# RRD: relational representation distillation (arXiv 2407.12073), with a queue of the last teacher features
rrd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    # no gradient reaches the teacher's embedding: it stays as it begins, as published
    frozen=['teacher_embedding'],
    connectors=dict(teacher_embedding=dict(type='LinearProjection')),
    losses=dict(
        rrd=dict(
            # the form of 2024, of which the published tables are; the defaults of RRDLoss are that of February 2025
            loss=dict(type='RRDLoss', student_temperature=0.04, teacher_temperature=0.1, enqueue='after'),
            features='pooled',
            student_connector=dict(type='LinearProjection'),
            teacher_connector='teacher_embedding',
        )
    ),
)
