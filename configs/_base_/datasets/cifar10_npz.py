# CIFAR-10 from one .npz file with the arrays x_train, y_train, x_test and y_test.
_base_ = ['./cifar10.py']
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='NPZDataset',
        data_file='data/cifar10.npz',
        images_key='x_train',
        labels_key='y_train',
        pipeline=_base_.train_dataloader.dataset.pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='NPZDataset',
        data_file='data/cifar10.npz',
        images_key='x_test',
        labels_key='y_test',
        pipeline=_base_.val_dataloader.dataset.pipeline,
    )
)
test_dataloader = val_dataloader
