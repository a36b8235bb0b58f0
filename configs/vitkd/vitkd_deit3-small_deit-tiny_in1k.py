_base_ = ['../_base_/pairs/deit3-small_deit-tiny_in1k.py', '../_base_/methods/vitkd.py']
model = dict(distiller=_base_.pop('vitkd'))
