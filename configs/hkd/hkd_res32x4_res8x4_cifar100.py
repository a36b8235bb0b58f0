_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py', '../_base_/methods/hkd.py']
model = dict(distiller=_base_.pop('hkd'))
