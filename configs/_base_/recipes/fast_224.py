# 224 x 224, 10 epochs: a first look, or a student that starts from trained weights.
_base_ = ['224.py']
train_cfg = dict(max_epochs=10)
