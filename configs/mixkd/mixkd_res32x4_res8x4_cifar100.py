_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py', '../_base_/methods/mixkd.py']
model = dict(
    type='MixupDistill',
    augment=dict(type='Mixup', alpha=1.0),
    distiller=_base_.pop('mixkd'),
)
# settings for other pairs, or for use with other methods
_base_.pop('mixkd_beside')
_base_.pop('mixkd_settings')
