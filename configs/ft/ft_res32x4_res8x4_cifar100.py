_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py', '../_base_/methods/ft.py']
model = dict(distiller=_base_.pop('ft'))
# an initial stage of 30 epochs comes before the schedule
train_cfg = dict(max_epochs=270)
param_scheduler = dict(begin=30)
# with several processes: each stage leaves some parameters unused
find_unused_parameters = True
