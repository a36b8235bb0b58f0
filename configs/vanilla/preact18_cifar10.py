# The teacher of HKD, in its protocol
_base_ = [
    '../_base_/models/preact18.py',
    '../_base_/datasets/cifar10_hkd.py',
    '../_base_/schedules/adam_80e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('preact18')
# predictions have the feature that is retrieved by
model.type = 'FeatureClassifier'
# a new Adam with the lower learning rate, as released
default_hooks = dict(loss_schedule=dict(fresh_optimizer=[50]))
