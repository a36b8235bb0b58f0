# the teacher: all 1297 training images
_base_ = [
    '../_base_/models/res20.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/demo_40e.py',
    '../_base_/runtimes/default.py',
]
model = _base_.pop('res20')
model.head.num_classes = 10
# thirteen times the images, half the epochs
train_cfg = dict(max_epochs=20)
param_scheduler = dict(milestones=[12, 15, 17])
