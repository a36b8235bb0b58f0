# CIFAR-10 as in HKD: batches of 128, its constants of normalisation. It flips before it crops, which is the same: the
# padding is symmetric.
_base_ = ['./cifar10.py']
data_preprocessor = dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
train_dataloader = dict(batch_size=128)
