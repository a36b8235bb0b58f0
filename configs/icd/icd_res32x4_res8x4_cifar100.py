_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py']
model = dict(distiller=dict(type='ICDDistiller'))
