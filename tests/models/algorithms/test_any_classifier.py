"""Convolutional networks and vision transformers teach each other; the student's config says how images look."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from helpers import CONFIGS
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.checkpoints.weights import weights_of
from icd_mmrazor.engine.description import describe

VIT = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=24, init_cfg=None),
)
NETWORKS = ('student', 'teacher')
FIRST = dict(res8='conv1.weight', vit='patch_embed.projection.weight')
DISTILLER = 'icd_mmrazor.models.distillers.named_features.print_log'
PREPROCESSOR = 'icd_mmrazor.models.algorithms.shared_preprocessor.print_log'
ALGORITHM = 'icd_mmrazor.models.algorithms.frozen_teacher_distill.print_log'


def algorithm(**settings: object) -> nn.Module:
    defaults = dict(distiller=dict(type='ICDDistiller', kd=dict(tau=4.0)), random_teacher=True)
    return MODELS.build({'_scope_': 'mmrazor', 'type': 'FrozenTeacherDistill', **defaults, **settings})


@pytest.mark.parametrize('student', ['res8', 'vit'])
def test_learns_from_another_kind_of_network(student: str, network: Callable, batch: Callable) -> None:
    networks = dict(res8=network('res8'), vit=VIT)
    teacher = ({*networks} - {student}).pop()
    with mock.patch(DISTILLER) as log:
        model = algorithm(architecture=networks[student], teacher=networks[teacher])
    found = dict(res8='input of head.fc, 64 wide, 10 classes', vit='input of head.layers.head, 24 wide, 10 classes')
    said = [call.args[0] for call in log.call_args_list]
    want = [f'ICDDistiller: student feature: {found[student]}', f'ICDDistiller: teacher feature: {found[teacher]}']
    assert said == want

    images, samples = batch()
    losses = model.eval()(images, samples, mode='loss')
    # the truth: what mmpretrain says that the classifiers take
    features = [net.extract_feat(images, stage='pre_logits') for net in (model.architecture, model.teacher)]
    projections = [model.distiller.connectors[f'icd_{side}'] for side in NETWORKS]
    embeddings = [project(feature) for project, feature in zip(projections, features, strict=True)]
    want = model.distiller.distill_losses['loss_icd'](*embeddings)
    torch.testing.assert_close(losses['distill.loss_icd'], want, rtol=1e-4, atol=1e-5)

    total, log = model.train().parse_losses(model(images, samples, mode='loss'))
    assert {'student.loss', 'distill.loss_icd', 'distill.loss_kd'} <= {*log}
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert model.architecture.backbone.get_parameter(FIRST[student]).grad.abs().sum() > 0


@pytest.mark.parametrize(('precision', 'tolerance'), [('fp32', 0), ('bf16', 0.03)])
def test_a_vit_teaches_in_any_precision(precision: str, tolerance: float, network: Callable, batch: Callable) -> None:
    model, (images, _) = algorithm(architecture=network('res8'), teacher=VIT, teacher_precision=precision), batch()
    logits = []
    model.teacher.head.layers.head.register_forward_hook(lambda *args: logits.append(args[-1].float()))
    model.run_teacher(images)
    with torch.no_grad():
        model.teacher(images, mode='tensor')
    got, want = logits
    assert (got - want).abs().max() <= tolerance * want.abs().max()


def test_images_are_normalised_as_the_students_config_says() -> None:
    student = str(CONFIGS / 'vanilla' / 'res8_cifar100.py')
    with mock.patch(ALGORITHM) as log, mock.patch(PREPROCESSOR) as compared:
        model = algorithm(architecture=student, teacher=student)
    assert not log.called
    assert not compared.called
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx([129.3105, 124.1085, 112.404])
    own = dict(mean=[1.0] * 3, std=[2.0] * 3)
    with mock.patch(PREPROCESSOR) as log:
        model = algorithm(architecture=student, teacher=student, data_preprocessor=own, teacher_preprocessor='student')
    assert model.data_preprocessor.mean.flatten().tolist() == own['mean']
    ((warning,), _), *more = log.call_args_list
    assert 'mean [129.31, 124.11, 112.4], std [68.21, 65.41, 70.41]' in warning
    assert 'mean [1.0, 1.0, 1.0], std [2.0, 2.0, 2.0]' in warning
    assert not more


def test_a_timm_student(batch: Callable, network: Callable) -> None:
    pytest.importorskip('timm')
    student = dict(type='TimmClassifier', model_name='resnet10t', num_classes=10)
    model = algorithm(architecture=student, teacher=network('res8'))
    assert model.distiller.student_source == 'model.fc'
    losses = model(*batch(), mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert model.architecture.model.conv1[0].weight.grad.abs().sum() > 0
    # its names are those of timm, within a distillation too, and load again
    state = model.state_dict()
    assert {*model.architecture.model.state_dict()} == {*weights_of(state, 'state')}
    model.load_state_dict(state)
    assert describe(model.architecture, student).startswith('TimmClassifier(model_name=resnet10t, num_classes=10), ')


@pytest.mark.skipif(torch.cuda.is_available(), reason='channels last is sound on a GPU')
@pytest.mark.parametrize('channels', [1, 3])
def test_narrow_students_keep_the_usual_memory_layout(channels: int, network: Callable, batch: Callable) -> None:
    """Where torch would write beyond its memory. Images of one channel count as contiguous in either layout."""
    narrow = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, in_channels=channels, stem_channels=4, base_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=32),
    )
    teacher = network('res8')
    teacher.backbone.in_channels = channels
    with mock.patch(ALGORITHM) as log:
        model = algorithm(architecture=narrow, teacher=teacher).train()
    assert 'channels_last' in log.call_args.args[0]
    layouts = []
    strided = model.architecture.backbone.layer2[0].downsample[0]
    strided.register_forward_hook(lambda _, inputs, __: layouts.append(inputs[0].is_contiguous()))
    images, samples = batch()
    model(images[:, :channels].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), samples, mode='loss')
    assert layouts == [True]
