# CIFAR-10 with 5,000 images of the first class and 250 of the last, 14,402 in all; the test images are balanced.
_base_ = './res20_cifar10-16k.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='LongTailed',
        gamma=2.0,
        dataset=dict(_base_.train_dataloader.dataset, indices=None),
    )
)
