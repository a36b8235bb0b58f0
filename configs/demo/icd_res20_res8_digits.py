# the same student on the same 100 images, with the teacher's help
_base_ = ['../_base_/pairs/res20_res8_digits.py']
model = dict(distiller=dict(type='ICDDistiller'))
