_base_ = ['../_base_/pairs/wrn40-2_wrn40-1_cifar100.py']
model = dict(distiller=dict(type='ICDDistiller'))
