# two students of configs/demo, on the same 100 images
_base_ = ['../demo/res8_digits.py', '../_base_/online/dml.py']
model = dict(architecture=_base_.model, teacher=_base_.pop('model'), **_base_.pop('dml'))
