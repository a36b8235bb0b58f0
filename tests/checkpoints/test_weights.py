"""Weights of a file, against the network that they fill."""

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from icd_mmrazor.checkpoints.weights import fit_of, load_strictly, named_for, tensors_in, weights_of
from icd_mmrazor.errors import CheckpointError


class Distillation(nn.Module):
    """Modules with the names of a distillation."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.architecture = student
        self.distiller = nn.Linear(2, 2)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10))


def test_what_fits_is_what_torch_loads() -> None:
    network, weights = small(), {**small().state_dict(), 'other': torch.ones(1)}
    del weights['1.bias']
    del weights['1.num_batches_tracked']
    weights['2.weight'] = torch.zeros(7, 4)
    fit = fit_of(network, weights)
    assert fit.filled == ['0.weight', '0.bias', '1.weight', '1.running_mean', '1.running_var', '2.bias']
    assert (fit.missing, fit.other_shapes, fit.unused) == (['1.bias'], ['2.weight'], ['other'])
    assert fit.part == 6 / 8
    assert all(text in str(fit) for text in ('6 of 8', '1.bias', '2.weight', 'other'))
    assert fit.of('0.').part == 1
    assert fit.without('1.').part == 3 / 4
    # nothing was loaded, and torch says the same of what is missing
    assert network[2].weight.any()
    del weights['2.weight']
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert [name for name in missing if 'num_batches' not in name] == ['1.bias', '2.weight']
    assert unexpected == ['other']


def test_networks_that_rename_or_resize_what_they_load() -> None:
    cfg = dict(type='VisionTransformer', arch='deit-t', patch_size=16)
    large, little = (MODELS.build({**cfg, 'img_size': size}) for size in (64, 32))
    fit = fit_of(little, large.state_dict())
    assert fit.part == 1
    assert little.pos_embed.shape != large.pos_embed.shape
    # recomputes its tables of positions, and removes them from what it loads
    arch = dict(embed_dims=8, depths=[1] * 4, num_heads=[1] * 4, extra_norm_every_n_blocks=0)
    swin = MODELS.build(dict(type='SwinTransformerV2', arch=arch, img_size=64, window_size=2))
    assert fit_of(swin, swin.state_dict()).part == 1
    timm = MODELS.build(dict(type='TimmClassifier', model_name='resnet10t', num_classes=10))
    assert not any(name.startswith('model.') for name in timm.state_dict())
    assert fit_of(timm, timm.state_dict()).part == 1
    assert fit_of(timm, timm.model.state_dict()).part == 1
    whole = Distillation(timm)
    assert fit_of(whole, named_for(whole, timm.model.state_dict())).of('architecture.').part == 1


def test_names_of_a_distillation_and_of_a_classifier() -> None:
    student = small()
    distillation = Distillation(student)
    plain, whole = student.state_dict(), distillation.state_dict()
    assert named_for(student, whole).keys() == plain.keys()
    assert named_for(distillation, plain).keys() == {f'architecture.{name}' for name in plain}
    assert named_for(distillation, whole).keys() == whole.keys()
    assert named_for(student, plain).keys() == plain.keys()
    # as DistributedDataParallel names them; a bare state dict
    assert tensors_in({f'module.{name}': value for name, value in plain.items()}).keys() == plain.keys()
    assert tensors_in({'state_dict': 'nonsense'}) == {}


def test_weights_of_every_form() -> None:
    plain = {'backbone.weight': torch.zeros(1)}
    distillation = {f'architecture.{name}': w for name, w in plain.items()} | {'teacher.weight': torch.ones(1)}
    parallel = {f'module.{name}': w for name, w in plain.items()}
    for weights in (plain, distillation, parallel):
        for checkpoint in (weights, {'state_dict': weights, 'meta': {}}):
            assert weights_of(checkpoint, 'file') == plain
    with pytest.raises(CheckpointError, match='repdistiller_to_mmpretrain'):
        weights_of({'model': plain, 'epoch': 240}, 'file')
    for nothing in ({}, {'state_dict': {}}, {'state_dict': {'a': 1}}, {'epoch': 3}):
        with pytest.raises(CheckpointError, match='checkpoint file'):
            weights_of(nothing, 'file')


def test_loads_strictly_or_not_at_all() -> None:
    source, target = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(2))
    weights = source.state_dict()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}

    for change, message in (
        ({'2.weight': torch.zeros(5, 4), '2.bias': torch.zeros(5)}, '5 classes'),
        ({'0.weight': torch.zeros(4, 9)}, r'0\.weight: \(4, 9\).*\(4, 3\)'),
        # of the last layer, but not of another number of classes
        ({'2.weight': torch.zeros(2, 5)}, r'2\.weight: \(2, 5\).*\n  Give the checkpoint of this network'),
        ({'2.weight': torch.tensor(1.0)}, r'2\.weight: \(\).*\n  Give the checkpoint of this network'),
        ({'extra': torch.zeros(1)}, 'extra'),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_strictly(target, {**weights, **change}, 'FILE')
    with pytest.raises(CheckpointError, match=r'(?s)FILE.*0\.bias'):
        load_strictly(target, {name: w for name, w in weights.items() if name != '0.bias'}, 'FILE')
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name]), name

    load_strictly(target, {name: w for name, w in weights.items() if 'num_batches' not in name}, 'FILE')
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
