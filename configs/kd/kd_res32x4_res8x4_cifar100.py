_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py', '../_base_/methods/kd.py']
model = dict(distiller=_base_.pop('kd'))
# what KD is beside another method; here it is alone
_base_.pop('kd_beside')
