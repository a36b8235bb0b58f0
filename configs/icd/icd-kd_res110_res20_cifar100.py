_base_ = ['./icd_res110_res20_cifar100.py']
model = dict(distiller=dict(kd=dict(type='KLDivergence', tau=4.0)))
