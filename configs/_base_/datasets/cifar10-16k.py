# The first 16,000 training images of CIFAR-10, and all 10,000 test images.
_base_ = ['./cifar10_npz.py']
train_dataloader = dict(dataset=dict(indices=16_000))
