# Shared by the longer recipes for small images: RandAugment, Mixup, CutMix. Both networks see the mixed image.
_base_ = ['small.py']
data_preprocessor = dict(
    batch_augments=dict(
        augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)],
        probs=[0.25, 0.25],
    )
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=32),
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(
                type='RandAugment',
                policies='timm_increasing',
                num_policies=2,
                total_level=10,
                magnitude_level=5,
                magnitude_std=0.5,
                hparams=dict(pad_val=[104, 116, 124], interpolation='bilinear'),
            ),
            dict(type='PackInputs'),
        ]
    )
)
