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
# without stages
TRANSFORMERS = {'vit', 'timm_vit'}
METHODS = [name for name in recipes.method_names() if name != recipes.STUDENT_ALONE]


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


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('pair', [*PAIRS, *(pair[::-1] for pair in PAIRS)], ids='-'.join)
def test_every_method_trains_every_pair(pair: tuple[str, str], method: str) -> None:
    teacher, student = pair
    cfg = dict(
        type='mmrazor.FrozenTeacherDistill',
        architecture=copy.deepcopy(network(student)),
        teacher=copy.deepcopy(network(teacher)),
        random_teacher=True,
        distiller=config_of(method),
    )
    if reason := refused(method, student, teacher):
        with pytest.raises(SettingError, match=reason):
            MODELS.build(cfg)
        return
    algorithm = MODELS.build(cfg).train()
    if hasattr(algorithm.distiller, 'set_progress'):  # after the warm-up of a weight
        algorithm.distiller.set_progress(epoch=30, iteration=300)
    labels = torch.arange(IMAGES) % 4
    for module in algorithm.modules():
        if hasattr(module, 'set_dataset'):
            module.set_dataset(labels)
    if algorithm.distiller.stage is None:
        algorithm.distiller.set_stage('initial')
    samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(label) for i, label in enumerate(labels)]
    if method in methods_of_views(2):
        samples = two_views(samples)
    losses = algorithm(torch.randn(len(samples), 3, 32, 32), samples, mode='loss')
    distilled = [value for name, value in losses.items() if name.startswith('distill.') and 'loss' in name]
    assert distilled
    total = sum(distilled)
    assert torch.isfinite(total)
    trained = algorithm.distiller if method == 'ft' else algorithm.architecture  # it trains its paraphraser first
    weights = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    gradients = [g for g in torch.autograd.grad(total, weights, allow_unused=True) if g is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
