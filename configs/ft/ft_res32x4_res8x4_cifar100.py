_base_ = ['../_base_/pairs/res32x4_res8x4_cifar100.py', '../_base_/methods/ft.py']
model = dict(distiller=_base_.pop('ft'))
# 30 epochs of its own come before the schedule
train_cfg = dict(max_epochs=270)
param_scheduler = dict(begin=30)
# several processes: in each stage some parameters are idle
find_unused_parameters = True
