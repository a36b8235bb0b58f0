# CIFAR-10 with 2,500 images of the first class and 125 of the last, 5,211 in all; the test images are balanced.
_base_ = './res20_res8_cifar10-5k.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='LongTailed',
        gamma=1.0,
        most=2_500,
        fewest=125,
        dataset=dict(_base_.train_dataloader.dataset, indices=None),
    )
)
# trained on twice as many images of each class
model = dict(teacher_ckpt='work_dirs/res20_cifar10-tail1/epoch_8.pth')
