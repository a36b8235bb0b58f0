# the student alone, on the first 100 images
_base_ = [
    '../_base_/models/res8.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/demo_40e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('res8')
model.head.num_classes = 10
train_dataloader = dict(dataset=dict(indices=100))
# 320 iterations: a contrastive loss needs more than the 80 of 40 epochs
train_cfg = dict(max_epochs=160, val_interval=40)
param_scheduler = dict(milestones=[100, 120, 140])
