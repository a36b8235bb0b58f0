_base_ = ['./icd_res110_res32_cifar100.py']
model = dict(distiller=dict(kd=dict(type='KLDivergence', tau=4.0)))
