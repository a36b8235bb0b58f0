# NST: neuron selectivity transfer (Huang and Wang, arXiv 1707.01219)
nst = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(nst=dict(loss=dict(type='NSTLoss', loss_weight=50.0), features='maps')),
)
