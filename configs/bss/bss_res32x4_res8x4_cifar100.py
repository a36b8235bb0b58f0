_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py', '../_base_/methods/bss.py']
model = dict(type='BoundarySampleDistill', distiller=_base_.pop('bss'))
# settings for other pairs, or for use with other methods
_base_.pop('bss_beside')
_base_.pop('bss_settings')
