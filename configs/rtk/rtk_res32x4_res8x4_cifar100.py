_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py', '../_base_/methods/rtk.py']
model = dict(distiller=_base_.pop('rtk'))
# settings for other pairs, or for use with other methods
_base_.pop('rtk_beside')
_base_.pop('rtk_pairs')
