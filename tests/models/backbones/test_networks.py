"""The benchmark's networks against the published ones: parameters, features, initialisation."""

import math
from collections.abc import Callable

import pytest
import torch
from mmengine.model import BaseModel
from mmrazor.registry import MODELS

from icd_mmrazor.models import CIFARResNet
from icd_mmrazor.utils import SettingError

PUBLISHED = {
    **{f'res{depth}': f'resnet{depth}' for depth in (8, 14, 20, 32, 44, 56, 110, '8x4', '32x4')},
    **{f'wrn{depth}-{width}': f'wrn_{depth}_{width}' for depth in (16, 40) for width in (1, 2)},
}


@pytest.fixture
def build(network: Callable) -> Callable[..., BaseModel]:
    return lambda name: MODELS.build(network(name, 100))


@pytest.mark.parametrize('name', PUBLISHED)
def test_equals_the_published_network(name: str, build: Callable, architectures: dict) -> None:
    model, want = build(name).eval(), architectures[PUBLISHED[name]]
    assert sum(p.numel() for p in model.parameters()) == want['params']
    assert model.head.fc.in_features == want['feature_dim']

    shapes = []
    stages = [model.backbone.conv1, *(getattr(model.backbone, f'layer{i}') for i in (1, 2, 3))]
    for stage in stages:
        stage.register_forward_hook(lambda _module, _inputs, output: shapes.append(list(output.shape[1:])))
    feature = model.extract_feat(torch.zeros(1, 3, 32, 32))[-1]
    assert [*shapes, list(feature.shape[1:])] == want['feature_shapes']


@pytest.mark.parametrize('name', ['res20', 'res8x4', 'wrn16-2'])
def test_starts_as_published(name: str, build: Callable) -> None:
    """Kaiming in fan-out mode; torch's own classifier, in wide ResNets with a bias of zero."""
    model = build(name)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            # the standard deviation of n numbers is known to about 1 / sqrt(2n)
            tolerance = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=tolerance)
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    weight, bias = model.head.fc.weight, model.head.fc.bias
    bound = 1 / math.sqrt(weight.shape[1])
    assert weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert (bias == 0).all() if name.startswith('wrn') else bias.abs().max() > 0.5 * bound


@pytest.mark.parametrize('depth', [2, 9, 18, 51])
def test_refuses_a_depth_there_is_not(depth: int) -> None:
    with pytest.raises(SettingError, match=f'depth={depth} must be 6n'):
        CIFARResNet(depth)
