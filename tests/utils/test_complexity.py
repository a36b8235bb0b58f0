"""What a network costs, counted anew and against mmengine's counter."""

from collections.abc import Callable

import pytest
from mmengine.analysis import FlopAnalyzer

import icd_mmrazor  # noqa: F401

# isort: split
import torch
from mmpretrain.registry import MODELS

from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.utils.complexity import complexity, image_size


@pytest.mark.parametrize('name', ['res8', 'shufflenetv1'])
def test_convolutions_and_linear_layers(name: str, network: Callable) -> None:
    model = MODELS.build(network(name)).eval()
    # mmengine's counter adds others, by operator
    operators = FlopAnalyzer(model, (torch.zeros(1, 3, 16, 16),)).by_operator()
    counted = complexity(network(name), (16, 16))
    assert counted.multiply_adds == operators['conv'] + operators['linear']
    assert counted.parameters == sum(weight.numel() for weight in model.parameters())


def test_attention_counts() -> None:
    small = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
    backbone = dict(type='VisionTransformer', arch=small, img_size=32, patch_size=8, out_type='cls_token')
    head = dict(type='LinearClsHead', num_classes=10, in_channels=24)
    config = network_config(dict(type='ImageClassifier', backbone=backbone, head=head), 'model')
    tokens, width = 4 * 4 + 1, 24
    layer = tokens * width * (3 * width + width + 2 * 48) + 2 * tokens * tokens * width
    patches = 16 * (3 * 8 * 8) * width
    assert complexity(config, (32, 32)).multiply_adds == patches + 2 * layer + width * 10


def test_the_size_that_a_pipeline_gives() -> None:
    load, resize, crop, pack = (
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=256, edge='short'),
        dict(type='CenterCrop', crop_size=224),
        dict(type='PackInputs'),
    )
    assert image_size([load, resize, crop, pack]) == (224, 224)
    assert image_size([dict(type='mmpretrain.Resize', scale=(32, 32)), pack]) == (32, 32)
    assert image_size([dict(type='ImageAsInDataset', size=16), pack]) == (16, 16)
    # not told, or only one side, or in an order that differs between transforms
    for pipeline in ([pack], [load, resize, pack], [dict(type='Resize', scale=(32, 16)), pack], []):
        assert image_size(pipeline) is None
