_base_ = ['../_base_/pairs/resnet50_mobilenet-v2_in1k.py', '../_base_/methods/icd.py']
_base_.pop('image_shape')
model = dict(distiller=_base_.pop('icd'))
