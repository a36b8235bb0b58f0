"""The benchmark's networks against the published ones: parameters, features, initialisation."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.backbones import CIFARVGG, CIFARResNet, CIFARShuffleNetV2
from icd_mmrazor.models.backbones.cifar_shufflenet import LastUnit
from icd_mmrazor.models.networks.features import feature_points, feature_shapes

PUBLISHED = {
    **{f'res{depth}': f'resnet{depth}' for depth in (8, 14, 20, 32, 44, 56, 110, '8x4', '32x4')},
    **{f'wrn{depth}-{width}': f'wrn_{depth}_{width}' for depth in (16, 40) for width in (1, 2)},
    **{f'vgg{depth}': f'vgg{depth}' for depth in (8, 11, 13, 16, 19)},
    'res50': 'ResNet50',
    'mobilenetv2': 'MobileNetV2',
    'shufflenetv1': 'ShuffleV1',
    'shufflenetv2': 'ShuffleV2',
}


@pytest.fixture
def build(network: Callable) -> Callable[..., BaseModel]:
    return lambda name: MODELS.build(network(name, 100))


def test_all_are_there(architectures: dict) -> None:
    assert set(PUBLISHED.values()) == set(architectures)


@pytest.mark.parametrize('name', PUBLISHED)
def test_equals_the_published_network(name: str, build: Callable, architectures: dict) -> None:
    model, want = build(name), architectures[PUBLISHED[name]]
    assert sum(p.numel() for p in model.parameters()) == want['params']
    assert model.head.fc.in_features == want['feature_dim']
    points, shapes = feature_points(model), [tuple(shape) for shape in want['feature_shapes']]
    assert feature_shapes(model, [*points.maps, points.pooled]) == shapes
    assert feature_shapes(model, points.preactivations) == shapes[1:-1]
    assert feature_shapes(model, [points.logits]) == [(100,)]


def assert_spread(weight: torch.Tensor, std: float) -> None:
    # the standard deviation of n numbers is known to about 1 / sqrt(2n)
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))


@pytest.mark.parametrize(
    'name', ['res20', 'res8x4', 'wrn16-2', 'vgg8', 'res50', 'mobilenetv2', 'shufflenetv1', 'shufflenetv2']
)
def test_starts_as_published(name: str, build: Callable) -> None:
    """Kaiming in fan-out mode, the ShuffleNets as torch starts layers."""
    model = build(name)
    model.init_weights()
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            if name.startswith('shufflenet'):
                bound = 1 / math.sqrt(module.weight[0].numel())
                assert module.weight.abs().max() <= bound
                assert_spread(module.weight, bound / math.sqrt(3))
            else:
                fan_out = module.out_channels * math.prod(module.kernel_size)
                assert_spread(module.weight, math.sqrt(2 / fan_out))
            assert (module.bias is not None) == name.startswith('vgg')
            assert module.bias is None or (module.bias == 0).all()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize('name', ['res20', 'wrn16-2', 'vgg8', 'res50', 'mobilenetv2', 'shufflenetv1', 'shufflenetv2'])
def test_classifier_starts_as_published(name: str, build: Callable) -> None:
    """As torch does, in wide ResNets with a bias of zero; in VGG and MobileNetV2 normal."""
    model = build(name)
    model.init_weights()
    weight, bias = model.head.fc.weight, model.head.fc.bias
    if name in ('vgg8', 'mobilenetv2'):
        assert_spread(weight, 0.01)
    else:
        bound = 1 / math.sqrt(weight.shape[1])
        assert weight.abs().max().item() <= bound
        assert_spread(weight, bound / math.sqrt(3))
    if name in ('wrn16-2', 'vgg8', 'mobilenetv2'):
        assert (bias == 0).all()
    else:
        assert bias.abs().max() > 0.5 * bound


def test_shufflenet_starts_from_a_checkpoint(tmp_path: Path) -> None:
    trained = CIFARShuffleNetV2()
    torch.save({'state_dict': trained.state_dict()}, tmp_path / 'trained.pth')
    new = CIFARShuffleNetV2(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'trained.pth')))
    new.init_weights()
    weights = new.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in trained.state_dict().items())


def test_last_unit_of_shufflenet_v2_is_mmpretrains() -> None:
    """Also in its gradients: behind a ReLU, which the input of a unit always is."""
    ours = LastUnit(8, conv_cfg=None, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')).double()
    theirs = InvertedResidual(8, 8).double()
    theirs.load_state_dict(ours.state_dict())
    before, gradient = torch.randn(2, 4, 8, 5, 5, dtype=torch.double)
    results = []
    for unit in (ours, theirs):
        x = before.clone().requires_grad_()
        out = unit(x.relu())
        out.backward(gradient)
        results.append([out, x.grad, *(p.grad for p in unit.parameters())])
    for mine, base in zip(*results, strict=True):
        torch.testing.assert_close(mine, base, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('depth', [2, 9, 18, 51])
def test_refuses_an_unknown_depth(depth: int) -> None:
    with pytest.raises(SettingError, match=f'depth={depth} must be 6n'):
        CIFARResNet(depth)
    with pytest.raises(SettingError, match=f'depth={depth} must be one of 8, 11, 13, 16, 19'):
        CIFARVGG(depth)


def test_shufflenet_v2_refuses_another_activation() -> None:
    with pytest.raises(SettingError, match='act_cfg='):
        CIFARShuffleNetV2(act_cfg=dict(type='ReLU6'))
