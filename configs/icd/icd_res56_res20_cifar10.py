_base_ = ['../_base_/pairs/res56_res20_cifar10.py', '../_base_/methods/icd.py']
model = dict(distiller=_base_.pop('icd'))
