# The published protocol in 40 epochs: learning rate divided by 10 at the same fractions of the run.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[25, 30, 35], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=4)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64, enable=False)
