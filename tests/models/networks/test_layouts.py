"""Tokens and maps, and where the features of today's networks are: compared with what the networks say themselves."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from mmpretrain.models import TimmClassifier
from mmpretrain.models.backbones import (
    BEiTViT,
    ConvNeXt,
    DenseNet,
    DistilledVisionTransformer,
    EfficientNet,
    EfficientNetV2,
    MobileNetV3,
    RegNet,
    RepVGG,
    SwinTransformer,
    SwinTransformerV2,
    VisionTransformer,
    ViTEVA02,
)
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.named_features import NamedFeatures
from icd_mmrazor.models.networks.features import Layout, Point
from icd_mmrazor.models.networks.points import evenly_spaced, points_of_backbone
from icd_mmrazor.models.networks.timm_points import points_of_timm

TINY_VIT = dict(embed_dims=16, num_layers=6, num_heads=2, feedforward_channels=32)
TINY_SWIN = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])


@torch.no_grad()
def features(network: nn.Module, points: list[Point], images: Tensor) -> list[Tensor]:
    """Return the features at the points, in their layouts, recorded by plain hooks."""
    calls: dict[str, list] = {point.source: [] for point in points}
    for name, records in calls.items():

        def before(_: nn.Module, inputs: tuple, records: list = records) -> None:
            # activations work in place
            records.append({'ModuleInputs': [each.clone() for each in inputs if isinstance(each, Tensor)]})

        def after(_: nn.Module, inputs: tuple, output: object, records: list = records) -> None:
            records[-1]['ModuleOutputs'] = output.clone() if isinstance(output, Tensor) else output

        network.get_submodule(name).register_forward_pre_hook(before)
        network.get_submodule(name).register_forward_hook(after)
    network.eval()
    network(images)
    found = []
    for point in points:
        record = calls[point.source][point.record_idx][point.type]
        record = record if point.data_idx is None else record[point.data_idx]
        found.append(record if point.layout is None else point.layout(record))
    return found


def test_tokens_become_maps_row_by_row() -> None:
    tokens = torch.randn(2, 1 + 6, 5)
    wide = Layout(extra=1, aspect=2 / 3)(tokens)
    assert wide.shape == (2, 5, 2, 3)
    for row in range(2):
        for column in range(3):
            assert torch.equal(wide[:, :, row, column], tokens[:, 1 + 3 * row + column])
    assert torch.equal(Layout('tokens', extra=1)(tokens), tokens[:, 1:])
    assert torch.equal(Layout('class_token', extra=1)(tokens), tokens[:, 0])


def test_maps_become_tokens_and_keep_their_places() -> None:
    maps = torch.randn(2, 5, 3, 4)
    tokens = Layout('tokens')(maps)
    assert torch.equal(tokens[:, 4 * 2 + 1], maps[:, :, 2, 1])
    assert torch.equal(Layout(aspect=3 / 4)(tokens), maps)
    last = maps.permute(0, 2, 3, 1)
    assert torch.equal(Layout(channels_last=True)(last), maps)
    assert torch.equal(Layout('tokens', channels_last=True)(last), tokens)


def test_the_network_s_own_size_counts() -> None:
    assert Layout()((torch.randn(2, 12, 5), (2, 6))).shape == (2, 5, 2, 6)


def test_tokens_that_do_not_form_a_map_are_refused() -> None:
    with pytest.raises(SettingError, match='image_shape'):
        Layout()(torch.randn(2, 11, 5))


@pytest.mark.parametrize(
    'output', [[torch.randn(2, 4, 5), torch.randn(2, 4, 5)], torch.randn(2, 4), (torch.randn(2, 4, 5),) * 3, None]
)
def test_what_is_neither_a_map_nor_tokens_is_refused(output: object) -> None:
    with pytest.raises(SettingError, match='not a map or tokens'):
        Layout()(output)


def test_a_map_with_something_else() -> None:
    maps = torch.randn(2, 5, 3, 4)
    assert torch.equal(Layout()((maps, torch.randn(2, 1, 5))), maps)
    with pytest.raises(SettingError, match='class token'):
        Layout('class_token', extra=1)((maps, torch.randn(2, 1, 5)))


def test_the_number_of_channels_tells_where_they_are() -> None:
    maps = torch.randn(2, 5, 3, 4)
    last = maps.permute(0, 2, 3, 1)
    assert torch.equal(Layout(channels=5)(last), maps)
    assert torch.equal(Layout(channels=5, channels_last=True)(maps), maps)
    # it does not tell
    assert torch.equal(Layout(channels=7, channels_last=True)(last), maps)
    square = torch.randn(2, 4, 4, 4)
    assert torch.equal(Layout(channels=4, channels_last=True)(square), square.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ('number', 'of', 'chosen'),
    [(4, 12, [2, 5, 8, 11]), (3, 4, [0, 2, 3]), (4, 4, [0, 1, 2, 3]), (4, 2, [0, 1]), (1, 5, [4])],
)
def test_evenly_spaced(number: int, of: int, chosen: list[int]) -> None:
    assert evenly_spaced(number, of) == chosen


@pytest.mark.parametrize('kind', [VisionTransformer, DistilledVisionTransformer, ViTEVA02, BEiTViT])
def test_groups_of_a_vision_transformer(kind: type) -> None:
    chosen = evenly_spaced(4, 6)
    settings = dict(img_size=32, patch_size=8, out_indices=chosen, out_type='featmap')
    network = kind(arch=TINY_VIT, **settings)
    images = torch.randn(2, 3, 32, 32)
    maps, before, *_ = points_of_backbone(network)
    assert before == maps[1:]
    found = features(network, maps[1:], images)
    for each, own in zip(found, network(images), strict=True):
        torch.testing.assert_close(each, own)


@pytest.mark.parametrize('kind', [SwinTransformer, SwinTransformerV2])
@torch.no_grad()
def test_stages_of_swin(kind: type) -> None:
    arch = TINY_SWIN if kind is SwinTransformer else {**TINY_SWIN, 'extra_norm_every_n_blocks': 0}
    network = kind(arch=arch, img_size=32, patch_size=2, window_size=2, out_indices=(3,))
    maps, *_ = points_of_backbone(network)
    images = torch.randn(2, 3, 32, 32)
    found = features(network, maps, images)
    assert found[0].shape == (2, 8, 16, 16)
    # the network norms its output
    normed = network.norm3(found[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(normed, network(images)[-1])


@torch.no_grad()
def test_stages_of_convnext() -> None:
    network = ConvNeXt(arch=dict(depths=[1, 1, 1, 1], channels=[4, 8, 12, 16]), gap_before_final_norm=False)
    images = torch.randn(2, 3, 64, 64)
    found = features(network, points_of_backbone(network)[0], images)
    assert [tuple(each.shape[1:]) for each in found] == [(4, 16, 16), (4, 16, 16), (8, 8, 8), (12, 4, 4), (16, 2, 2)]
    torch.testing.assert_close(network.norm3(found[-1]), network(images)[-1])


@pytest.mark.parametrize(
    ('build', 'sizes'),
    [
        (partial(EfficientNet, 'b0'), [32, 16, 8, 4, 2]),
        (partial(EfficientNetV2, 's'), [32, 16, 8, 4, 2]),
        (partial(MobileNetV3, 'small'), [32, 16, 8, 4, 2]),
        (partial(RegNet, 'regnetx_400mf'), [32, 16, 8, 4, 2]),
        (partial(RepVGG, 'A0'), [32, 16, 8, 4, 2]),
        (partial(DenseNet, arch=dict(growth_rate=4, depths=[1, 1, 1, 1], init_channels=8)), [16, 8, 4, 2, 2]),
    ],
    ids=lambda value: value.func.__name__ if isinstance(value, partial) else '',
)
def test_stages_of_convolutional_networks(build: Callable, sizes: list[int]) -> None:
    network = build()
    maps, before, *_ = points_of_backbone(network)
    found = features(network, [*maps, *before], torch.randn(2, 3, 64, 64))
    assert [each.shape[-1] for each in found[: len(maps)]] == sizes
    for stage, preactivation in zip(found[1 : len(maps)], found[len(maps) :], strict=True):
        assert (preactivation < 0).any()
        assert torch.equal(stage, preactivation) or torch.equal(stage, preactivation.relu())


@pytest.mark.parametrize('name', ['test_vit', 'test_resnet', 'test_convnext', 'test_efficientnet', 'swin'])
@torch.no_grad()
def test_networks_of_timm(name: str) -> None:
    timm = pytest.importorskip('timm')
    settings = dict(num_classes=4)
    if name == 'swin':
        name = 'swin_tiny_patch4_window7_224'
        settings |= dict(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), img_size=64, window_size=2)
    if name == 'test_vit':
        settings |= dict(img_size=64)
    network = timm.create_model(name, **settings)
    images = torch.randn(2, 3, 64, 64)
    maps, before, _ = points_of_timm(network)
    own = network.eval().forward_intermediates(images, intermediates_only=True, norm='vit' in name)
    found = features(network, maps, images)
    for each, expected in zip(found[::-1], own[::-1], strict=False):
        if 'vit' in name and each is not found[-1]:
            continue  # timm norms all of them
        torch.testing.assert_close(each, expected)
    assert bool(before) == ('vit' in name)


@torch.no_grad()
def test_registers_are_not_class_tokens() -> None:
    transformer = pytest.importorskip('timm.models.vision_transformer').VisionTransformer
    small = dict(img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, num_classes=4)
    images = torch.randn(2, 3, 32, 32)
    for with_class_token in (True, False):
        pool = 'token' if with_class_token else 'avg'
        network = transformer(**small, class_token=with_class_token, reg_tokens=2, global_pool=pool).eval()
        maps, *_ = points_of_timm(network)
        own = network.forward_intermediates(images, intermediates_only=True)
        for each, expected in zip(features(network, maps[1:-1], images), own, strict=False):
            torch.testing.assert_close(each, expected)
        classifier = TimmClassifier('test_vit', num_classes=4)
        classifier.model = network
        named = NamedFeatures('FeatureDistiller', 'student', classifier, 'auto', maps=True)
        named.use(['patch_tokens'], (3, 32, 32))
        assert named.shapes['patch_tokens'] == (16, 16)
        if with_class_token:
            named.use(['class_token'], (3, 32, 32))
            token = features(network, [replace(maps[-1], layout=replace(maps[-1].layout, form='class_token'))], images)
            torch.testing.assert_close(token[0], network.forward_features(images)[:, 0])
        else:
            with pytest.raises(SettingError, match='class_token'):
                named.use(['class_token'], (3, 32, 32))


@torch.no_grad()
def test_a_stem_of_timm_with_its_channels_last() -> None:
    timm = pytest.importorskip('timm')
    network = timm.create_model('pvt_v2_b0', num_classes=4, depths=(1, 1, 1, 1)).eval()
    images = torch.randn(2, 3, 64, 64)
    maps, *_ = points_of_timm(network)
    found = features(network, maps, images)
    assert torch.equal(found[0], network.patch_embed(images).permute(0, 3, 1, 2))
    for each, expected in zip(found[1:], network.forward_intermediates(images, intermediates_only=True), strict=True):
        torch.testing.assert_close(each, expected)


def test_tokens_of_hiera_are_refused() -> None:
    timm = pytest.importorskip('timm')
    network = timm.create_model('hiera_tiny_224', embed_dim=8, stages=(1, 1, 1, 1), num_classes=4)
    with pytest.raises(SettingError, match='Hiera'):
        points_of_timm(network)
