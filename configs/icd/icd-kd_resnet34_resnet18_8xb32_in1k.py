_base_ = ['./icd_resnet34_resnet18_8xb32_in1k.py']
model = dict(distiller=dict(kd=dict(type='KLDivergence', tau=4.0)))
