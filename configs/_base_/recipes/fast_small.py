# Small images, 10 epochs: a first look in minutes.
_base_ = ['small.py']
train_cfg = dict(max_epochs=10)
