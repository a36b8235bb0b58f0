_base_ = ['../_base_/pairs/res110_res32_cifar100.py']
model = dict(distiller=dict(type='ICDDistiller'))
