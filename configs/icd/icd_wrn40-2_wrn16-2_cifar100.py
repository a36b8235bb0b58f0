_base_ = ['../_base_/pairs/wrn40-2_wrn16-2_cifar100.py']
model = dict(distiller=dict(type='ICDDistiller'))
