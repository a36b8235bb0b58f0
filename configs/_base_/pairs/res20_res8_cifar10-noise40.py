# The first 5,000 training images of CIFAR-10, 40 % of the labels drawn at random; the test labels are right.
_base_ = './res20_res8_cifar10-5k.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='NoisyLabels',
        probability=0.4,
        indices=5_000,
        dataset=dict(_base_.train_dataloader.dataset, indices=None),
    )
)
# trained on these labels, too
model = dict(teacher_ckpt='work_dirs/res20_cifar10-noise40/epoch_8.pth')
