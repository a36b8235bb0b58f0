_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py', '../_base_/methods/mlkd.py']
model = dict(distiller=_base_.pop('mlkd'))
# the method needs another training set, around that of the pair
train_dataloader = dict(
    dataset=dict(_delete_=True, dataset=_base_.train_dataloader.dataset, **_base_.pop('mlkd_dataset'))
)
# settings for other pairs, or for use with other methods
_base_.pop('mlkd_pairs')
