# + query embedding matching
_base_ = ['./digits_gallery.py', '../_base_/retrieval/distiller.py']
_base_.pop('scores')
model = dict(distiller=dict(losses=dict(matching=_base_.pop('matching'))))
