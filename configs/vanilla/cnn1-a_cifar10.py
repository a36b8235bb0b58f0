# The auxiliary teacher of HKD before it has learned from the teacher, in HKD's protocol
_base_ = [
    '../_base_/models/cnn1-a.py',
    '../_base_/datasets/cifar10_hkd.py',
    '../_base_/schedules/adam_80e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('cnn1_a')
# predictions have the feature that is retrieved by
model.type = 'FeatureClassifier'
# a new Adam with the lower learning rate, as released
default_hooks = dict(loss_schedule=dict(fresh_optimizer=[50]))
