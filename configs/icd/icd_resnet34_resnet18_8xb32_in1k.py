_base_ = ['../_base_/pairs/resnet34_resnet18_in1k.py', '../_base_/methods/icd.py']
model = dict(distiller=_base_.pop('icd'))
