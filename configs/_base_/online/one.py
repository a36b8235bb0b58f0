# ONE (arXiv 1806.04606): three branches with an ensemble; the authors' temperature and ramp-up of 80 epochs.
one = dict(
    _scope_='mmpretrain',
    type='BranchedClassifier',
    branches=3,
    ensemble_loss=dict(type='OnlineEnsembleLoss', tau=3.0, weight_schedule=dict(type='RampUp', end=81)),
)
