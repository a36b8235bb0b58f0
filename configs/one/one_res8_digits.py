# the student of configs/demo, on the same 100 images, with three branches
_base_ = ['../demo/res8_digits.py', '../_base_/online/one.py']
model = {**_base_.pop('model'), **_base_.pop('one')}
