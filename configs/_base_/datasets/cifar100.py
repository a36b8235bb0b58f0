# Random crop with zero padding 4 and horizontal flip. Normalisation in units of 0 to 255, RGB.
data_preprocessor = dict(
    type='mmpretrain.ClsDataPreprocessor', mean=[129.3105, 124.1085, 112.404], std=[68.2125, 65.4075, 70.4055]
)
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VerifiedCIFAR100',
        data_root='data/cifar100',
        split='train',
        pipeline=[
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
    dataset=dict(type='VerifiedCIFAR100', data_root='data/cifar100', split='test', pipeline=[dict(type='PackInputs')]),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
