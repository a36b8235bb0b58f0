# CIFAR-10 as HKD reads it: batches of 128, its normalisation, and retrieval of test images among training images.
# HKD flips before it crops, which is the same: the padding is symmetric.
_base_ = ['./cifar10.py']
data_preprocessor = dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
train_dataloader = dict(batch_size=128)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KNNDataset',
        bank=dict(type='VerifiedCIFAR10', data_root='data/cifar10', split='train', pipeline=[dict(type='PackInputs')]),
        queries=_base_.val_dataloader.dataset,
    )
)
val_evaluator = dict(_delete_=True, type='RetrievalPrecision')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
