# Shared by the recipes for 224 x 224: AdamW, random resized crops, mirror images.
_base_ = ['shared.py']
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    ),
)
val_dataloader = dict(
    num_workers=8,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs'),
        ]
    ),
)
test_dataloader = val_dataloader
# for 128 images per iteration over all processes; --auto-scale-lr adapts it to others
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05))
auto_scale_lr = dict(base_batch_size=128, enable=False)
