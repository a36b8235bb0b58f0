# FT: factor transfer (Kim et al., NeurIPS 2018); first 30 epochs of its own
ft = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    initial_epochs=30,
    initial_lr=0.01,
    frozen=['paraphraser'],
    connectors=dict(paraphraser=dict(type='FTParaphraser')),
    losses=dict(
        paraphraser=dict(
            stage='initial',
            loss=dict(type='L2Loss', normalize=False, div_element=True),
            inputs=dict(
                s_feature=dict(network='teacher', feature='last_map', connector='paraphraser', method='reconstruct'),
                t_feature=dict(network='teacher', feature='last_map'),
            ),
        ),
        ft=dict(
            loss=dict(type='FactorTransferLoss', loss_weight=200.0),
            features='last_map',
            student_connector=dict(type='FTTranslator'),
            teacher_connector='paraphraser',
        ),
    ),
)
