_base_ = ['../_base_/pairs/res56_res20_cifar100.py']
model = dict(distiller=dict(type='ICDDistiller'))
