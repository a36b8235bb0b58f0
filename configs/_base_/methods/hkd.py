# HKD: heterogeneous distillation by information flow (Passalis et al., CVPR 2020)
r"""
paper: https://arxiv.org/abs/2005.00727, Passalis, Tzelepi and Tefas, CVPR 2020
loss: CE + HKD, its weight on maps 100 in the first epoch and less in each
features: all maps, the pooled feature
"""

# maps count much at first, when the flow of a network forms, and less in each epoch; the last layer always counts
hkd = dict(
    _scope_='mmrazor',
    type='FeatureDistiller',
    losses=dict(
        flow=dict(
            loss=dict(type='InformationFlowLoss', reduction='batchmean'),
            features='maps',
            weight_schedule=dict(type='Exponential', start_factor=100.0, gamma=0.7),
        ),
        last=dict(loss=dict(type='InformationFlowLoss', reduction='batchmean'), features='pooled'),
    ),
)
