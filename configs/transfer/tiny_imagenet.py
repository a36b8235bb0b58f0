_base_ = [
    '../_base_/datasets/tiny_imagenet.py',
    '../_base_/schedules/linear_probe_120e.py',
    '../_base_/runtimes/default.py',
]
model = dict(_scope_='mmpretrain', type='LinearProbe', student_ckpt=None, num_classes=200)
