_base_ = ['../_base_/pairs/res110_res20_cifar100.py']
model = dict(distiller=dict(type='ICDDistiller'))
