"""Where features lie, beyond the benchmark's networks (those: tests/models/backbones)."""

from collections.abc import Callable

import pytest
import torch
from mmengine.model import BaseModel
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.features import (
    Point,
    feature_points,
    feature_shapes,
    input_of,
    output_of,
    points_of_backbone,
)


def classifier(width: int, **backbone: object) -> BaseModel:
    cfg = dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=width),
    )
    return MODELS.build(cfg)


def recorded(model: nn.Module, points: tuple[Point, ...], images: Tensor) -> list[Tensor]:
    """Return what mmrazor's recorders see at these points."""
    recorders = RecorderManager({str(i): dict(type=f'mmrazor.{p.type}', source=p.source) for i, p in enumerate(points)})
    recorders.initialize(model)
    with recorders, torch.no_grad():
        model(images, mode='tensor')
    return [recorders.get_recorder(str(i)).get_record_data(p.record_idx, p.data_idx) for i, p in enumerate(points)]


@pytest.mark.parametrize(
    'settings',
    [
        dict(type='ResNet', depth=18, width=512),
        dict(type='ResNetV1d', depth=50, width=2048),
        dict(type='SEResNet', depth=50, width=2048),
        dict(type='VGG', depth=11, norm_cfg=dict(type='BN'), width=512),
        dict(type='ShuffleNetV1', width=960),
    ],
    ids=lambda settings: settings['type'],
)
def test_other_networks_of_mmpretrain(settings: dict) -> None:
    """A map is the activation of its pre-activation, also where the classes are not made for small images."""
    model = classifier(**settings).eval()
    points = feature_points(model)
    images = torch.randn(2, 3, 64, 64)
    maps, before = recorded(model, points.maps, images), recorded(model, points.preactivations, images)
    assert len(maps) == len(before) + 1
    for stage, preactivation in zip(maps[1:], before, strict=True):
        assert (preactivation < 0).any()
        assert torch.equal(stage, preactivation.relu())


def test_preactivations_are_kept(network: Callable, batch: Callable) -> None:
    """Though the activations work in place."""
    images, _ = batch(2)
    for name in ('res8', 'wrn16-1', 'vgg8', 'shufflenetv2'):
        model = MODELS.build(network(name)).eval()
        assert any(getattr(module, 'inplace', False) for module in model.modules())
        points = feature_points(model).preactivations
        assert all((tensor < 0).any() for tensor in recorded(model, points, images))


def test_unknown_backbones_are_refused() -> None:
    with pytest.raises(SettingError, match=r'MobileOne.*CIFARShuffleNetV2, .*ResNet, '):
        feature_points(classifier(1024, type='MobileOne', arch='s0'))
    with pytest.raises(SettingError, match='Sequential has no classifier'):
        feature_points(nn.Sequential(nn.Conv2d(3, 3, 1)), maps=False)
    with pytest.raises(SettingError, match='backbone Sequential'):
        feature_points(nn.Sequential(nn.Linear(3, 3)))


class Mine(BaseBackbone):
    """A user's backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.stage1 = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.stage1(self.stem(x)),)


class Derived(Mine):
    """Inherits the points."""


def test_a_user_declares_a_backbone() -> None:
    @points_of_backbone.register
    def _(_: Mine) -> tuple[list[Point], list[Point]]:
        return [output_of('stem'), output_of('stage1')], [input_of('stage1.1')]

    model = classifier(8, type=Derived)
    points = feature_points(model)
    assert points.blocks == ()
    assert points.maps == (
        Point('ModuleOutputs', 'backbone.stem'),
        Point('ModuleOutputs', 'backbone.stage1'),
    )
    assert points.preactivations == (Point('ModuleInputs', 'backbone.stage1.1', record_idx=0, data_idx=0),)
    places = (*points.maps, *points.preactivations, points.pooled, points.logits)
    shapes = [(4, 28, 28), (8, 14, 14), (8, 14, 14), (8,), (10,)]
    assert feature_shapes(model, places, (3, 28, 28)) == shapes


def test_a_user_declares_blocks() -> None:
    @points_of_backbone.register
    def _(_: Mine) -> tuple[list[Point], ...]:
        return [output_of('stem'), output_of('stage1')], [input_of('stage1.1')], [output_of('stage1.0')]

    model = classifier(8, type=Derived)
    assert feature_points(model).blocks == (Point('ModuleOutputs', 'backbone.stage1.0'),)
    assert feature_points(model, maps=False).blocks == ()


class Whole(BaseModel):
    """A network without a backbone of its own, like a ``TimmClassifier``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 10)

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> Tensor:
        assert mode == 'tensor'
        return self.fc(self.stem(inputs).mean((2, 3)))


def test_a_user_declares_a_whole_network() -> None:
    @points_of_backbone.register
    def _(_: Whole) -> tuple[list[Point], list[Point]]:
        return [output_of('stem')], []

    model = Whole()
    points = feature_points(model)
    assert points.maps == (output_of('stem'),)
    assert feature_shapes(model, [*points.maps, points.pooled]) == [(4, 32, 32), (4,)]


def test_shapes_change_nothing(network: Callable) -> None:
    model = MODELS.build(network('res8')).double()
    model.train()
    model.backbone.layer1.eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    point = feature_points(model).maps[-1]

    assert feature_shapes(model, [point]) == [(64, 8, 8)]
    with pytest.raises(RuntimeError):
        feature_shapes(model, [point], (1, 32, 32))

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_shapes_refuse_points_that_do_not_exist(network: Callable) -> None:
    model = MODELS.build(network('res8'))
    with pytest.raises(SettingError, match=r'backbone\.layer9'):
        feature_shapes(model, [output_of('backbone.layer9')])
    with pytest.raises(SettingError, match=r'layer1\.0\.relu.* call 2'):
        feature_shapes(model, [input_of('backbone.layer1.0.relu', call=2)])
    with pytest.raises(SettingError, match=r'backbone.*tuple'):
        feature_shapes(model, [output_of('backbone')])
