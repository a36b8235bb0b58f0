# Tiny ImageNet at 32 x 32, read and resized as PIL does it; random crop with zero padding 4 and horizontal flip.
# Normalisation in units of 0 to 255, RGB; the files are read as BGR.
data_preprocessor = dict(mean=[122.451, 114.2655, 101.3625], std=[70.635, 68.6205, 71.9355], to_rgb=True)
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='TinyImageNet',
        data_root='data/tiny-imagenet-200',
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile', imdecode_backend='pillow'),
            dict(type='Resize', scale=(32, 32), backend='pillow'),
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='TinyImageNet',
        data_root='data/tiny-imagenet-200',
        split='val',
        pipeline=[
            dict(type='LoadImageFromFile', imdecode_backend='pillow'),
            dict(type='Resize', scale=(32, 32), backend='pillow'),
            dict(type='PackInputs'),
        ],
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
