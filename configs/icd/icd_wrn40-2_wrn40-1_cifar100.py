_base_ = ['../_base_/pairs/wrn40-2_wrn40-1_cifar100.py', '../_base_/methods/icd.py']
model = dict(distiller=_base_.pop('icd'))
