# Small images, 100 epochs with RandAugment, Mixup and CutMix.
_base_ = ['mixed_small.py']
train_cfg = dict(max_epochs=100)
