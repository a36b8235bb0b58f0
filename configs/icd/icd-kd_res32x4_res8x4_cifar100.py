_base_ = ['./icd_res32x4_res8x4_cifar100.py']
model = dict(distiller=dict(kd=dict(type='KLDivergence', tau=4.0)))
