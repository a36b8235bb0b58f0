"""The size of the images, found in a config."""

import pytest

from icd_mmrazor.configuration.image_size import image_shape_of, tell_distillers


@pytest.mark.parametrize(
    ('transforms', 'shape'),
    [
        ([dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=16, padding=2)], (3, 16, 16)),
        ([dict(type='Resize', scale=(25, 13)), dict(type='RandomCrop', crop_size=(13, 25))], (3, 13, 25)),
        ([dict(type='Resize', scale=(25, 13))], (3, 13, 25)),
        ([dict(type='RandomResizedCrop', scale=(25, 13))], (3, 25, 13)),
        ([dict(type='LoadImageFromFile', color_type='grayscale'), dict(type='RandomResizedCrop', scale=8)], (1, 8, 8)),
        ([dict(type='Resize', scale=(25, 13), keep_ratio=True)], None),
        ([dict(type='PackInputs')], None),
    ],
)
def test_the_shape_of_the_images_is_that_of_the_pipeline(transforms: list, shape: tuple | None) -> None:
    cfg = dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=transforms))))
    assert image_shape_of(cfg) == shape
    maps = dict(at=dict(loss=dict(type='AttentionTransferLoss'), features='maps'))
    pooled = dict(rkd=dict(loss=dict(type='RKDLoss'), features='pooled'))
    distillers = dict(
        at=dict(type='FeatureDistiller', losses=maps),
        set=dict(type='mmrazor.FeatureDistiller', losses=maps, image_shape=(3, 9, 9)),
        rkd=dict(type='FeatureDistiller', losses=pooled),
        icd=dict(type='ICDDistiller', losses=maps),
        own=dict(type='ConfigurableDistiller'),
    )
    cfg['model'] = dict(distiller=dict(type='MixedDistiller', distillers=distillers))
    tell_distillers(cfg)
    told = {name: each['image_shape'] for name, each in distillers.items() if 'image_shape' in each}
    assert told == ({'at': shape, 'icd': shape, 'set': (3, 9, 9)} if shape else {'set': (3, 9, 9)})
