# PKT: probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018)
pkt = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(pkt=dict(loss=dict(type='PKTLoss', loss_weight=30000.0), features='pooled')),
)
