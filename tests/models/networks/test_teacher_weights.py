"""Weights of a teacher in the files that people have."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.errors import CheckpointError
from icd_mmrazor.models.networks.teacher_weights import load_teacher

VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8,
)
TIMM = dict(model_name='vit_tiny_patch16_224', img_size=32, depth=1)
LOG = 'icd_mmrazor.models.networks.teacher_weights.print_log'


def built(**cfg: object) -> nn.Module:
    return MODELS.build({'_scope_': 'mmpretrain', **cfg})


def headless() -> nn.Module:
    return built(type='ImageClassifier', backbone=dict(VIT))


def classifier() -> nn.Module:
    head = dict(type='VisionTransformerClsHead', num_classes=4, in_channels=24)
    return built(type='ImageClassifier', backbone=dict(VIT), head=head)


def noisy(model: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


def renamed(weights: dict[str, Tensor], strip: str = '', add: str = '') -> dict[str, Tensor]:
    return {add + name.removeprefix(strip): value for name, value in weights.items()}


BACKBONE = {name: value for name, value in noisy(classifier()).state_dict().items() if name.startswith('backbone.')}
HEAD = {name: value for name, value in noisy(classifier()).state_dict().items() if name.startswith('head.')}


@pytest.mark.parametrize(
    ('weights', 'left_out'),
    [
        (BACKBONE, ''),
        (renamed(BACKBONE, strip='backbone.'), ''),
        (renamed(BACKBONE, strip='backbone.', add='encoder.'), ''),
        ({**BACKBONE, **HEAD}, 'head.layers.head.weight'),
        ({**BACKBONE, 'neck.decoder_embed.weight': torch.zeros(3)}, 'neck.decoder_embed.weight'),
        ({**renamed(BACKBONE, strip='backbone.'), 'mask_token': torch.zeros(3)}, 'mask_token'),
        ({**renamed(BACKBONE, 'backbone.', 'visual.'), 'text_model.a': torch.zeros(3)}, 'text_model.a'),
    ],
)
def test_what_stands_around_a_network_is_left_out(weights: dict, left_out: str) -> None:
    network = headless()
    with mock.patch(LOG) as log:
        load_teacher(network, weights, 'FILE')
    for name, value in BACKBONE.items():
        assert network.state_dict()[name].equal(value), name
    assert log.called == bool(left_out)
    if left_out:
        assert left_out in log.call_args.args[0]


@pytest.mark.parametrize(
    'weights',
    [
        {name: value for name, value in BACKBONE.items() if 'ln1' not in name},
        {**BACKBONE, 'backbone.layers.2.ln1.weight': torch.zeros(24)},  # of a deeper network
        {**BACKBONE, 'backbone.pos_embed': torch.zeros(1, 5, 24)},
        HEAD,
    ],
    ids=['missing', 'deeper', 'other size', 'head alone'],
)
def test_all_weights_must_fit(weights: dict) -> None:
    network = noisy(headless())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match='FILE does not fit the model'):
        load_teacher(network, weights, 'FILE')
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_a_classifier_needs_its_own() -> None:
    network = classifier()
    with pytest.raises(CheckpointError, match='not in the file: head'):
        load_teacher(network, BACKBONE, 'FILE')
    with pytest.raises(CheckpointError, match='only in the file: neck'):
        load_teacher(network, {**BACKBONE, **HEAD, 'neck.a': torch.zeros(3)}, 'FILE')
    load_teacher(network, {**BACKBONE, **HEAD}, 'FILE')


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize(
    'wrapper',
    [
        lambda classes: built(type='TimmClassifier', num_classes=classes, **TIMM),
        lambda _: built(type='ImageClassifier', backbone=dict(type='TIMMBackbone', **TIMM)),
    ],
)
def test_files_of_timm(wrapper: Callable, suffix: str, tmp_path: Path) -> None:
    timm = pytest.importorskip('timm')
    settings = {key: value for key, value in TIMM.items() if key != 'model_name'}
    source = noisy(timm.create_model(TIMM['model_name'], num_classes=5, **settings)).eval()
    file = tmp_path / f'weights.{suffix}'
    if suffix == 'pth':
        torch.save(source.state_dict(), file)
    else:
        pytest.importorskip('safetensors.torch').save_file(source.state_dict(), file)
    images = torch.randn(2, 3, 32, 32)
    for classes in (5, 0):
        network = wrapper(classes).eval()
        load_teacher(network, read_checkpoint(file), 'FILE')
        inner = getattr(network, 'model', None) or network.backbone.timm_model
        with torch.no_grad():
            torch.testing.assert_close(inner.forward_features(images), source.forward_features(images))
            if classes and hasattr(network, 'model'):
                torch.testing.assert_close(network(images), source(images))
