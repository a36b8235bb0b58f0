"""Every method between networks of different families, in both directions."""

import copy
import functools

import pytest
import torch
from helpers import methods_of_views, shipped, two_views
from mmengine.config import Config
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.feature_terms import NETWORKS as ROLES
from icd_mmrazor.models.distillers.feature_terms import checked_entries, feature_names
from icd_mmrazor.models.networks.features import feature_points
from icd_mmrazor.models.networks.norms import norm_before_activation

pytest.importorskip('timm')

IMAGES = 6


def with_head(kind: str, width: int, **backbone: object) -> dict:
    """Return the config of an mmpretrain classifier for 32 x 32 pixels and 4 classes."""
    neck = {} if kind == 'VisionTransformerClsHead' else dict(neck=dict(type='GlobalAveragePooling'))
    head = dict(type=kind, num_classes=4, in_channels=width)
    return dict(type='ImageClassifier', backbone=backbone, head=head, **neck)


NETWORKS = {
    'cnn': with_head('LinearClsHead', 32, type='CIFARResNet', depth=8, stem_channels=8, base_channels=8),
    'mobilenet_v3': with_head('LinearClsHead', 576, type='MobileNetV3', arch='small'),
    'convnext': with_head(
        'LinearClsHead',
        32,
        type='ConvNeXt',
        arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32]),
        gap_before_final_norm=False,
    ),
    'swin': with_head(
        'LinearClsHead',
        64,
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
        img_size=32,
        patch_size=2,
        window_size=2,
    ),
    'vit': with_head(
        'VisionTransformerClsHead',
        16,
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=5, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
    ),
    'timm_cnn': dict(type='TimmClassifier', model_name='test_resnet', num_classes=4),
    'timm_vit': dict(type='TimmClassifier', model_name='test_vit', num_classes=4, img_size=32, patch_size=8),
}
PAIRS = [
    ('cnn', 'mobilenet_v3'),
    ('cnn', 'convnext'),
    ('cnn', 'swin'),
    ('cnn', 'vit'),
    ('cnn', 'timm_cnn'),
    ('cnn', 'timm_vit'),
    ('vit', 'convnext'),
    ('vit', 'timm_cnn'),
    ('swin', 'timm_vit'),
    ('vit', 'timm_vit'),
]
IN_BOTH_DIRECTIONS = [*PAIRS, *(pair[::-1] for pair in PAIRS)]
# without stages
TRANSFORMERS = {'vit', 'timm_vit'}
METHODS = [name for name in recipes.method_names() if name != recipes.STUDENT_ALONE]
# SimKD changes the student, and the others are to meet it as it is
TOGETHER = {
    'one_view': [name for name in methods_of_views(1) if name != 'simkd'],
    'changed_student': ['simkd'],
    'two_views': methods_of_views(2),
}


@functools.cache
def network(family: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.build(NETWORKS[family])


def refused(method: str, student: str, teacher: str) -> str | None:
    """Return why a method does not fit two networks, by what its loss compares."""
    if method == 'simkd':
        return refused_by_simkd(student, teacher)
    entries = config_of(method).get('losses') or {}
    points = [feature_points(network(family)) for family in (student, teacher)]
    for name, entry in checked_entries(entries, {}).items() if entries else ():
        for role, found in zip(ROLES, points, strict=True):
            for kind in {*feature_names(entry, role)} & {'preactivations', 'blocks'}:
                if not getattr(found, kind):
                    return f'{name} compares {kind}'
        if entry['loss']['type'] == 'FSPLoss':  # none of these networks have the same widths
            return 'equal widths'
        if entry['loss']['type'] == 'KDSVDLoss':
            return 'each map with the next|the same number of channels'
        if entry['loss']['type'] == 'ViTKDLoss' and not {student, teacher} <= TRANSFORMERS:
            return 'plain vision transformers'
        if entry['loss']['type'] == 'OverhaulLoss':
            norms = [norm_before_activation(network(teacher), point) for point in points[1].preactivations]
            if None in norms:
                return 'teacher_norm'
    return None


def refused_by_simkd(student: str, teacher: str) -> str | None:
    """A backbone of the student must return a map, and the teacher classify the average of one."""
    if student.startswith('timm'):
        return 'student is a TimmClassifier'
    if 'vit' in teacher:
        return 'teacher.*average of a map'
    return 'student.*not a map' if student == 'vit' else None


def config_of(method: str) -> Config:
    return shipped(f'_base_/methods/{method}.py')[method]


def build(pair: tuple[str, str], distiller: dict) -> nn.Module:
    teacher, student = (copy.deepcopy(network(family)) for family in pair)
    cfg = dict(type='mmrazor.FrozenTeacherDistill', architecture=student, teacher=teacher, random_teacher=True)
    return MODELS.build(dict(cfg, distiller=distiller))


@pytest.mark.parametrize('pair', IN_BOTH_DIRECTIONS, ids='-'.join)
def test_methods_that_do_not_fit_are_refused(pair: tuple[str, str]) -> None:
    for method in METHODS:
        if reason := refused(method, student=pair[1], teacher=pair[0]):
            with pytest.raises(SettingError, match=reason):
                build(pair, config_of(method))


def check_gradients(method: str, loss: torch.Tensor, trained: nn.Module) -> None:
    assert torch.isfinite(loss), method
    weights = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    found = [gradient for gradient in gradients if gradient is not None]
    assert all(torch.isfinite(gradient).all() for gradient in found), method
    assert any(gradient.abs().max() > 0 for gradient in found), method


@pytest.mark.slow
@pytest.mark.parametrize('methods', TOGETHER.values(), ids=TOGETHER)
@pytest.mark.parametrize('pair', IN_BOTH_DIRECTIONS, ids='-'.join)
def test_every_other_method_trains(pair: tuple[str, str], methods: list[str]) -> None:
    """One pass of the networks serves them all; then the gradients of each are looked at by themselves."""
    fitting = [method for method in methods if not refused(method, student=pair[1], teacher=pair[0])]
    if not fitting:  # they are refused, see above
        return
    distillers = {method: config_of(method) for method in fitting}
    algorithm = build(pair, dict(type='mmrazor.MixedDistiller', distillers=distillers)).train()
    labels = torch.arange(IMAGES) % 4
    for module in algorithm.modules():
        if hasattr(module, 'set_dataset'):
            module.set_dataset(labels)
    samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(label) for i, label in enumerate(labels)]
    samples = two_views(samples) if methods == methods_of_views(2) else samples
    images = torch.randn(len(samples), 3, 32, 32)
    trained: set[str] = set()
    for stage in ['initial', 'main'] if algorithm.distiller.stage is None else ['main']:
        algorithm.distiller.set_stage(stage)
        algorithm.distiller.set_progress(epoch=30, iteration=300)  # after the warm-up of a weight
        losses = {name: value for name, value in algorithm(images, samples, mode='loss').items() if 'loss' in name}
        for method in fitting:
            values = [value for name, value in losses.items() if name.startswith(f'distill.{method}.')]
            # in its main stage, FT normalises the last map over its pixels, here often only one
            if not values or (method, stage) == ('ft', 'main'):
                continue
            # in its initial stage, it trains its paraphraser
            part = algorithm.distiller if method == 'ft' else algorithm.architecture
            check_gradients(method, sum(values), part)
            trained.add(method)
    assert trained == {*fitting}
