# The published protocol in 8 epochs: learning rate divided by 10 at the same fractions of the run.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[5, 6, 7], gamma=0.1)
# the last epoch counts, and a validation takes as long as two epochs of 5,000 images
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=8)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64, enable=False)
