_base_ = ['./icd_wrn40-2_wrn40-1_cifar100.py']
model = dict(distiller=dict(kd=dict(type='KLDivergence', tau=4.0)))
