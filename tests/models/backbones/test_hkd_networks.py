"""The networks of HKD: sizes, features, and what is unusual in its ResNet."""

from collections.abc import Callable

import pytest
import torch
from mmrazor.registry import MODELS

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.backbones import CIFARConvNet, CIFARPreActResNet
from icd_mmrazor.models.networks.features import feature_points, feature_shapes

MAPS = {
    'cnn1': [(8, 30, 30), (8, 15, 15), (16, 6, 6), (32, 2, 2)],
    'cnn1-a': [(16, 30, 30), (16, 15, 15), (32, 6, 6), (64, 2, 2)],
    'preact18': [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)],
}


@pytest.mark.parametrize(
    ('name', 'parameters', 'width'),
    [('cnn1', 15_050, 64), ('cnn1-a', 57_994, 128), ('preact18', 11_171_274, 512)],
)
def test_sizes_and_features(name: str, parameters: int, width: int, network: Callable) -> None:
    model = MODELS.build(network(name))
    assert sum(p.numel() for p in model.parameters()) == parameters
    points = feature_points(model)
    assert feature_shapes(model, [*points.maps, points.pooled, points.logits]) == [*MAPS[name], (width,), (10,)]
    before = feature_shapes(model, points.preactivations)
    assert [shape[0] for shape in before] == [shape[0] for shape in MAPS[name][1:]]
    number = 8 if name == 'preact18' else 3
    assert len(points.blocks) == number
    assert feature_shapes(model, points.blocks[-1:]) == MAPS[name][-1:]


def test_pooled_is_what_is_classified(network: Callable) -> None:
    model = MODELS.build(network('cnn1')).eval()
    images = torch.randn(2, 3, 32, 32)
    stages = model.backbone.stage3(model.backbone.stage2(model.backbone.stage1(images)))
    pooled = model.backbone.fc(stages.flatten(1)).relu()
    assert torch.equal(model.extract_feat(images)[-1], pooled)


def test_a_shortcut_without_convolution_is_activated() -> None:
    """As released: in the usual block it is the input itself."""
    block = CIFARPreActResNet().layer1[0].eval()
    block.conv2.weight.data.zero_()
    maps = torch.randn(2, 64, 4, 4)
    torch.testing.assert_close(block(maps), block.bn1(maps).relu())


@pytest.mark.parametrize(
    ('cls', 'settings', 'name'),
    [
        (CIFARConvNet, dict(width=0), 'width=0'),
        (CIFARConvNet, dict(image_size=16), 'image_size=16'),
        (CIFARPreActResNet, dict(blocks=(2, 0)), 'blocks=0'),
    ],
)
def test_settings_out_of_range(cls: type, settings: dict, name: str) -> None:
    with pytest.raises(SettingError, match=f'{cls.__name__}: {name}'):
        cls(**settings)
