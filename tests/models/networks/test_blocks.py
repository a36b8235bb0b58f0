"""Outputs of all blocks, beyond the benchmark's networks (those: tests/models/backbones)."""

import pytest
import torch
from mmengine.model import BaseModel
from mmrazor.registry import MODELS

from icd_mmrazor.models.networks.features import feature_points, feature_shapes
from icd_mmrazor.models.networks.timm_points import points_of_timm


def classifier(width: int, **backbone: object) -> BaseModel:
    # a vision transformer pools by itself
    neck = {} if backbone['type'] == 'VisionTransformer' else dict(neck=dict(type='GlobalAveragePooling'))
    head = dict(type='LinearClsHead', num_classes=10, in_channels=width)
    return MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head, **neck))


@pytest.mark.parametrize(
    ('settings', 'places', 'shapes'),
    [
        (
            dict(type='ResNetV1d', depth=50, width=2048),
            [f'layer{i + 1}.{j}' for i, number in enumerate((3, 4, 6, 3)) for j in range(number)],
            [(256, 16, 16), *[(512, 8, 8)] * 4, *[(1024, 4, 4)] * 6, (2048, 2, 2)],
        ),
        # the convolutions, not the pooling between them
        (
            dict(type='VGG', depth=11, width=512),
            [f'features.{i}' for i in (0, 2, 4, 5, 7, 8, 10, 11)],
            [(64, 64, 64), (128, 32, 32), (512, 4, 4)],
        ),
        (
            dict(type='MobileNetV2', width=1280),
            [f'layer{i + 1}.{j}' for i, number in enumerate((1, 2, 3, 4, 3, 3, 1)) for j in range(number)],
            [(16, 32, 32), (24, 16, 16), (320, 2, 2)],
        ),
        # neither the stem nor the layer that only widens the last map
        (
            dict(type='MobileNetV3', arch='small', width=576),
            [f'layer{i}' for i in range(1, 12)],
            [(16, 16, 16), (96, 2, 2)],
        ),
        (
            dict(type='EfficientNet', arch='b0', width=1280),
            [f'layers.{i + 1}.{j}' for i, number in enumerate((1, 2, 2, 6, 5)) for j in range(number)],
            [(16, 32, 32), (320, 2, 2)],
        ),
        (
            dict(
                type='ConvNeXt',
                arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 32]),
                gap_before_final_norm=False,
                width=32,
            ),
            ['stages.0.0', 'stages.1.0', 'stages.2.0', 'stages.2.1', 'stages.3.0'],
            [(8, 16, 16), (16, 8, 8), (24, 4, 4), (24, 4, 4), (32, 2, 2)],
        ),
        # the tokens of 64 x 64 pixels lie in maps
        (
            dict(
                type='SwinTransformer',
                arch=dict(embed_dims=8, depths=[1, 2, 1, 1], num_heads=[1, 1, 2, 2]),
                img_size=64,
                patch_size=4,
                window_size=2,
                width=64,
            ),
            ['stages.0.blocks.0', 'stages.1.blocks.0', 'stages.1.blocks.1', 'stages.2.blocks.0', 'stages.3.blocks.0'],
            [(8, 16, 16), (16, 8, 8), (16, 8, 8), (32, 4, 4), (64, 2, 2)],
        ),
        (
            dict(
                type='VisionTransformer',
                arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
                img_size=64,
                patch_size=16,
                out_type='avg_featmap',
                width=16,
            ),
            ['layers.0', 'layers.1', 'layers.2'],
            [(16, 4, 4)] * 3,
        ),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_blocks_of_networks_of_mmpretrain(settings: dict, places: list[str], shapes: list[tuple]) -> None:
    model = classifier(**settings)
    blocks = feature_points(model).blocks
    assert [point.source for point in blocks] == [f'backbone.{place}' for place in places]
    found = feature_shapes(model, blocks, (3, 64, 64))
    # in this order; the list leaves some out
    rest = iter(found)
    assert all(shape in rest for shape in shapes)
    assert found[-1] == shapes[-1]


def test_a_block_of_a_transformer_has_no_class_token_and_no_norm() -> None:
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    backbone = dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=8, out_type='avg_featmap')
    model = classifier(16, **backbone)
    *_, last = feature_points(model).blocks
    tokens = torch.randn(2, 17, 16)
    assert torch.equal(last.layout(tokens), tokens[:, 1:].mT.reshape(2, 16, 4, 4))
    assert last.source == 'backbone.layers.1'


def test_networks_without_blocks() -> None:
    assert feature_points(classifier(1024, type='DenseNet', arch='121')).blocks == ()


@pytest.mark.parametrize(
    ('name', 'settings', 'places', 'shapes'),
    [
        ('resnet10t', {}, [f'layer{i}.0' for i in (1, 2, 3, 4)], [(64, 16, 16), (512, 2, 2)]),
        # in the end there is a convolution, which has the place of the last map
        ('test_byobnet', {}, [f'stages.{i}.0' for i in range(4)], [(32, 16, 16), (256, 2, 2)]),
        # two stages without a place of their own
        (
            'efficientnet_lite0',
            {},
            [f'blocks.{i}.{j}' for i, number in enumerate((1, 2, 2, 3, 3, 4, 1)) for j in range(number)],
            [(16, 32, 32), (320, 2, 2)],
        ),
        (
            'regnetx_002',
            {},
            [f's{i + 1}.b{j + 1}' for i, number in enumerate((1, 1, 4, 7)) for j in range(number)],
            [(24, 16, 16), (368, 2, 2)],
        ),
        (
            'swin_tiny_patch4_window7_224',
            dict(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2), img_size=64, window_size=2),
            ['layers.0.blocks.0', 'layers.1.blocks.0', 'layers.1.blocks.1', 'layers.2.blocks.0', 'layers.3.blocks.0'],
            [(8, 16, 16), (16, 8, 8), (16, 8, 8), (32, 4, 4), (64, 2, 2)],
        ),
        (
            'test_convnext',
            {},
            [f'stages.{i}.blocks.{j}' for i, number in enumerate((1, 2, 4, 2)) for j in range(number)],
            [(24, 16, 16), (32, 8, 8), (48, 4, 4), (64, 2, 2)],
        ),
        # not the norm of the last map
        ('test_vit', dict(img_size=64), [f'blocks.{i}' for i in range(6)], [(64, 4, 4)] * 6),
    ],
)
def test_blocks_of_networks_of_timm(name: str, settings: dict, places: list[str], shapes: list[tuple]) -> None:
    pytest.importorskip('timm')
    model = MODELS.build(dict(type='TimmClassifier', model_name=name, num_classes=4, **settings))
    blocks = feature_points(model).blocks
    assert [point.source for point in blocks] == [f'model.{place}' for place in places]
    rest = iter(feature_shapes(model, blocks, (3, 64, 64)))
    assert all(shape in rest for shape in shapes)


@pytest.mark.parametrize('name', ['densenet121', 'vgg11'])
def test_networks_of_timm_without_blocks(name: str) -> None:
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        network = timm.create_model(name, num_classes=4)
    assert points_of_timm(network)[2] == []
