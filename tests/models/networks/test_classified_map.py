"""The map whose average a network classifies, in networks of every family, and the last map of a backbone."""

from collections.abc import Callable

import pytest
import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classified_map import classified_map
from icd_mmrazor.models.networks.classifier_layer import find_classifier
from icd_mmrazor.models.networks.features import Point, feature_points, feature_shapes
from icd_mmrazor.models.networks.headless import as_teacher
from icd_mmrazor.models.networks.last_map import cut_after_last_map, map_shape

IMAGE = (3, 32, 32)
CNNS = ['res8', 'res8x4', 'wrn16-1', 'vgg8', 'mobilenetv2', 'shufflenetv1', 'shufflenetv2', 'res50']


def recorded(network: nn.Module, point: Point, images: Tensor) -> Tensor:
    """Return what the module of a point returns in its call."""
    outputs: list = []
    handle = network.get_submodule(point.source).register_forward_hook(lambda _m, _i, output: outputs.append(output))
    with torch.no_grad():
        network(images, mode='tensor')
    handle.remove()
    output = outputs[point.record_idx]
    return output if point.data_idx is None else output[point.data_idx]


@pytest.mark.parametrize('name', CNNS)
def test_its_average_is_what_the_classifier_takes(name: str, network: Callable) -> None:
    model = MODELS.build(network(name)).eval()
    found = classified_map(model, 'head.fc', IMAGE)
    images = torch.randn(2, *IMAGE)
    features = recorded(model, found.point, images)
    assert features.shape[1:] == found.shape
    assert features.shape[2] > 1
    with torch.no_grad():
        torch.testing.assert_close(features.mean((2, 3)), model.extract_feat(images)[-1], rtol=1e-4, atol=1e-5)
    assert not found.has_negatives
    assert (features >= 0).all()
    # no trace in the network
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_of_a_wide_resnet_it_comes_after_the_last_norm_and_activation(network: Callable) -> None:
    model = MODELS.build(network('wrn16-1')).eval()
    images = torch.randn(2, *IMAGE)
    last_map = recorded(model, feature_points(model).maps[-1], images)
    found = recorded(model, classified_map(model, 'head.fc', IMAGE).point, images)
    assert (last_map < 0).any()
    torch.testing.assert_close(found, model.backbone.norm1(last_map).relu())


@pytest.mark.parametrize('name', ['mobilenetv2', 'shufflenetv2'])
def test_of_the_light_networks_it_is_the_widened_map(name: str, network: Callable) -> None:
    model = MODELS.build(network(name))
    assert classified_map(model, 'head.fc', IMAGE).shape[0] == model.head.in_channels
    last_map = feature_points(model).maps[-1]
    assert feature_shapes(model, [last_map], IMAGE)[0][0] < model.head.in_channels


class Plain(nn.Module):
    """A network without parts that are known: it pools in its forward pass."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.fc = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU()), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.stage(images).mean((2, 3)))


def test_a_network_of_ones_own() -> None:
    found = classified_map(as_teacher(Plain()), 'model.fc', (3, 8, 8))
    assert (found.point.source, found.shape, found.has_negatives) == ('model.stage', (6, 6, 6), True)


def convnext(gap_before_final_norm: bool) -> dict:
    arch = dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32])
    backbone = dict(type='ConvNeXt', arch=arch, gap_before_final_norm=gap_before_final_norm)
    neck = None if gap_before_final_norm else dict(type='GlobalAveragePooling')
    return dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head('LinearClsHead', 32))


def head(kind: str, width: int, **settings: object) -> dict:
    return dict(type=kind, num_classes=4, in_channels=width, **settings)


def vit() -> dict:
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)
    backbone = dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=16)
    return dict(type='ImageClassifier', backbone=backbone, head=head('VisionTransformerClsHead', 16))


def test_a_map_of_a_network_that_ends_in_a_norm_has_negative_values() -> None:
    model = MODELS.build(convnext(False))
    assert classified_map(model, 'head.fc', IMAGE).has_negatives


def mobilenet() -> dict:
    pytest.importorskip('timm')
    return dict(type='TimmClassifier', model_name='mobilenetv3_small_050', num_classes=4)


@pytest.mark.parametrize(
    ('cfg', 'shape'),
    [(lambda: convnext(True), (3, 64, 64)), (vit, IMAGE), (mobilenet, (3, 64, 64))],
    ids=['norm after pooling', 'class token', 'convolution after pooling'],
)
def test_a_network_that_classifies_something_else_is_refused(cfg: Callable, shape: tuple[int, ...]) -> None:
    model = MODELS.build(cfg())
    with pytest.raises(SettingError, match=r'the teacher, \w+, .*average of a map'):
        classified_map(model, find_classifier(model), shape, 'the teacher')


def test_a_map_of_one_position(network: Callable) -> None:
    assert classified_map(MODELS.build(network('res8')), 'head.fc', (3, 4, 4)).shape == (64, 1, 1)


def test_a_hidden_layer_between_map_and_classifier_is_refused(network: Callable) -> None:
    cfg = network('res8')
    cfg.head = head('StackedLinearClsHead', 64, mid_channels=[12])
    with pytest.raises(SettingError, match='average of a map'):
        classified_map(MODELS.build(cfg), 'head.layers.1.fc', IMAGE)


def test_a_network_without_a_classifier_and_images_that_it_does_not_take(network: Callable) -> None:
    cfg = network('res8')
    model = MODELS.build(cfg)
    with pytest.raises(SettingError, match=r'image_shape=\(5, 32, 32\)'):
        classified_map(model, 'head.fc', (5, 32, 32))
    cfg.head = None
    with pytest.raises(SettingError, match='classifier'):
        classified_map(as_teacher(MODELS.build(cfg)), 'head', IMAGE)


def test_timm() -> None:
    pytest.importorskip('timm')
    model = MODELS.build(dict(type='TimmClassifier', model_name='test_resnet', num_classes=4)).eval()
    found, images = classified_map(model, 'model.fc', IMAGE), torch.randn(2, *IMAGE)
    with torch.no_grad():
        expected = model.model.forward_features(images)
    assert torch.equal(recorded(model, found.point, images), expected)


# what is left of the backbone, and its width
WIDTHS = {'res8': 64, 'wrn16-1': 64, 'vgg8': 512, 'mobilenetv2': 160, 'shufflenetv1': 960, 'shufflenetv2': 464}


@pytest.mark.parametrize('name', WIDTHS)
def test_the_last_map_of_a_backbone_that_is_cut(name: str, network: Callable) -> None:
    model = MODELS.build(network(name)).eval()
    last_map, images = feature_points(model).maps[-1], torch.randn(2, *IMAGE)
    expected = recorded(model, last_map, images)
    before = sum(parameter.numel() for parameter in model.backbone.parameters())
    cut_after_last_map(model.backbone)
    assert map_shape(model.backbone, IMAGE, 'it') == (WIDTHS[name], *expected.shape[2:])
    with torch.no_grad():
        output = model.backbone(images)[-1]
    if name.startswith('wrn'):  # its norm stays
        expected = model.backbone.norm1(expected).relu()
    torch.testing.assert_close(output, expected)
    is_cut = sum(parameter.numel() for parameter in model.backbone.parameters()) < before
    assert is_cut == (name in ('mobilenetv2', 'shufflenetv2'))


@pytest.mark.parametrize(
    ('kind', 'arch', 'width'), [('MobileNetV3', 'small', 576), ('EfficientNet', 'b0', 1280)], ids=lambda each: str(each)
)
def test_the_widening_layer_of_mmpretrains_networks_is_cut(kind: str, arch: str, width: int) -> None:
    parts = dict(neck=dict(type='GlobalAveragePooling'), head=head('LinearClsHead', width))
    model = MODELS.build(dict(type='ImageClassifier', backbone=dict(type=kind, arch=arch), **parts))
    last_map = feature_points(model).maps[-1]
    expected = feature_shapes(model, [last_map], (3, 64, 64))[0]
    whole = map_shape(model.backbone, (3, 64, 64), 'it')
    cut_after_last_map(model.backbone)
    assert map_shape(model.backbone, (3, 64, 64), 'it') == expected != whole


def test_a_backbone_whose_stages_are_unknown_stays_and_one_without_maps_is_refused() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 1))
    cut_after_last_map(backbone)
    assert map_shape(backbone, (3, 8, 8), 'it') == (7, 6, 6)
    with pytest.raises(SettingError, match=r'the student, Sequential, returns a tensor of shape \(1, 7\), not a map'):
        map_shape(nn.Sequential(*backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 8, 8), 'the student')
    with pytest.raises(SettingError, match=r'image_shape=\(4, 8, 8\)'):
        map_shape(backbone, (4, 8, 8), 'the student')
