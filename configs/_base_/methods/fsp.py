# FSP: flow of solution procedure (Yim et al., CVPR 2017); equal widths only; first 30 epochs of its own
fsp = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    initial_epochs=30,
    losses=dict(
        fsp=dict(
            stage='initial',
            # the published weight of 50 is that of the main stage, where nothing of FSP is left
            loss=dict(type='FSPLoss'),
            features='consecutive_maps',
        )
    ),
)
