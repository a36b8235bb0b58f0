# HKD's protocol for a teacher: 50 epochs of Adam at batch 128, then 30 at a tenth of the learning rate, for which the
# release makes a new Adam: default_hooks.loss_schedule.fresh_optimizer=[50].
_base_ = ['./adam_50e.py']
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[50], gamma=0.1)
train_cfg = dict(max_epochs=80, val_interval=80)
