_base_ = ['./icd_resnet50_mobilenet-v2_8xb32_in1k.py']
model = dict(distiller=dict(kd=dict(type='KLDivergence', tau=4.0)))
