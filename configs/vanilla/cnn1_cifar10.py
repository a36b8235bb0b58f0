# The baseline of HKD: its student alone, in its protocol
_base_ = [
    '../_base_/models/cnn1.py',
    '../_base_/datasets/cifar10_hkd.py',
    '../_base_/schedules/adam_50e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('cnn1')
# predictions have the feature that is retrieved by
model.type = 'FeatureClassifier'
