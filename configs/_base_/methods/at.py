# AT: attention transfer (Zagoruyko and Komodakis, ICLR 2017)
at = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(at=dict(loss=dict(type='AttentionTransferLoss', loss_weight=1000.0), features='maps')),
)
