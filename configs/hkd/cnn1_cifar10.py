# HKD's baseline: the student alone, 50 epochs of cross-entropy.
_base_ = [
    '../_base_/models/cnn1.py',
    '../_base_/datasets/cifar10_hkd.py',
    '../_base_/schedules/adam_50e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('cnn1')
