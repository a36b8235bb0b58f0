# The first 16,000 training images of CIFAR-10, 60 % of the labels drawn at random; the test labels are right.
_base_ = './res20_cifar10-16k.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='NoisyLabels',
        probability=0.6,
        indices=16_000,
        dataset=dict(_base_.train_dataloader.dataset, indices=None),
    )
)
