_base_ = ['../_base_/pairs/res110_res20_cifar100.py', '../_base_/methods/icd.py']
model = dict(distiller=_base_.pop('icd'))
