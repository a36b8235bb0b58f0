# a small vision transformer with a distillation token, on all images
_base_ = ['./res8_digits.py', '../_base_/models/res20.py', '../_base_/methods/deit.py']
model = dict(
    _delete_=True,
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='DistilledVisionTransformer',
            arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=128),
            img_size=16,
            patch_size=4,
        ),
        head=dict(
            type='DeiTClsHead',
            num_classes=10,
            in_channels=64,
            loss=dict(type='CrossEntropyLoss'),
        ),
    ),
    teacher=_base_.pop('res20'),
    teacher_ckpt='work_dirs/demo/teacher/epoch_20.pth',
    distiller=_base_.pop('deit'),
)
model['teacher'].head.num_classes = 10
train_dataloader = dict(dataset=dict(indices=None))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05))
train_cfg = dict(max_epochs=60, val_interval=20)
param_scheduler = dict(milestones=[40, 50, 55])
