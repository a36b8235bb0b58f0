# STL-10 at 32 x 32, resized as PIL does it; random crop with zero padding 4 and horizontal flip.
# Normalisation in units of 0 to 255, RGB.
data_preprocessor = dict(mean=[113.9085, 112.149, 103.683], std=[66.3765, 65.433, 69.156])
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='STL10',
        data_root='data/stl10_binary',
        split='train',
        pipeline=[
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
        type='STL10',
        data_root='data/stl10_binary',
        split='test',
        pipeline=[dict(type='Resize', scale=(32, 32), backend='pillow'), dict(type='PackInputs')],
    ),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
