# 224 x 224, 100 epochs with RandAugment, RandomErasing, Mixup and CutMix.
_base_ = ['mixed_224.py']
train_cfg = dict(max_epochs=100)
