_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py', '../_base_/methods/r2kd.py']
model = dict(
    type='AugmentedDistill',
    augment=dict(type='CutMix', alpha=1.0),
    pruned_teacher=dict(amount=0.1, weight=0.3),
    distiller=_base_.pop('r2kd'),
)
# settings for other pairs, or for use with other methods
_base_.pop('r2kd_settings')
