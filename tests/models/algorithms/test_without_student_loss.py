"""calculate_student_loss=False: the student is run to its logits, and labels are not needed."""

import copy
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from helpers import DKD
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.records import recorders_of

RESNET = dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8)
FEATURE = dict(num_classes=10, in_channels=64)
ARCH = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
TRANSFORMER = dict(arch=ARCH, img_size=32, patch_size=16)


@pytest.fixture
def unlabelled(batch: Callable) -> tuple[Tensor, list[DataSample]]:
    images, samples = batch()
    for sample in samples:
        del sample.gt_label
    return images, samples


def network_of(head: dict, backbone: dict = RESNET, neck: bool = True) -> dict:
    cfg = dict(type='ImageClassifier', backbone=backbone, head=head)
    return {**cfg, 'neck': dict(type='GlobalAveragePooling')} if neck else cfg


STUDENTS = {
    'linear': (network_of(dict(type='LinearClsHead', **FEATURE)), 'head.fc'),
    'stacked': (network_of(dict(type='StackedLinearClsHead', mid_channels=[12], **FEATURE)), 'head.layers.1.fc'),
    'several labels': (network_of(dict(type='MultiLabelLinearClsHead', **FEATURE)), 'head.fc'),
    # its loss is not implemented
    'EfficientFormer': (network_of(dict(type='EfficientFormerClsHead', **FEATURE)), 'head.dist_head'),
    'ViT': (
        network_of(
            dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16, hidden_dim=12),
            dict(type='VisionTransformer', **TRANSFORMER),
            neck=False,
        ),
        'head.layers.head',
    ),
    'DeiT': (
        network_of(
            dict(type='DeiTClsHead', num_classes=10, in_channels=16),
            dict(type='DistilledVisionTransformer', **TRANSFORMER),
            neck=False,
        ),
        'head.layers.head_dist',
    ),
}


@pytest.mark.parametrize(('student', 'classifier'), STUDENTS.values(), ids=STUDENTS)
def test_the_feature_is_what_the_head_classifies(
    student: dict, classifier: str, algorithm: Callable, unlabelled: tuple
) -> None:
    model = algorithm(
        architecture=copy.deepcopy(student),
        calculate_student_loss=False,
        distiller=dict(type='ICDDistiller', student_source=classifier),
    ).eval()
    images, samples = unlabelled
    with torch.no_grad():
        losses = model(images, samples, mode='loss')
        feature = model.student.extract_feat(images, stage='pre_logits')
        if isinstance(feature, tuple):  # DeiT's two tokens
            feature = feature[1]
        connectors, icd = model.distiller.connectors, model.distiller.distill_losses['loss_icd']
        teachers = model.teacher.extract_feat(images)[-1]
        want = icd(connectors['icd_student'](feature), connectors['icd_teacher'](teachers))
    assert losses['distill.loss_icd'].item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize('kd', [None, dict(tau=4.0)], ids=['icd', 'icd-kd'])
def test_nothing_but_the_students_loss_is_left_out(kd: dict | None, algorithm: Callable, batch: Callable) -> None:
    """Losses and gradients are those of a distillation with it, that loss taken away; labels make no difference."""
    whole = algorithm(distiller=dict(type='ICDDistiller', kd=kd))
    results = []
    for with_loss, labels in ((True, True), (False, True), (False, False)):
        model = copy.deepcopy(whole)
        model.calculate_student_loss = with_loss
        images, samples = batch()
        if not labels:
            samples = [DataSample() for _ in samples]
        losses = model(images, samples, mode='loss')
        assert ('student.loss' in losses) is with_loss
        losses.pop('student.loss', None)
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        statistics = [buffer for name, buffer in model.student.named_buffers() if 'running' in name]
        results.append((losses, [parameter.grad for parameter in model.parameters()], statistics))
        assert [r.data_buffer for r in recorders_of(model.distiller, 'student')] == [[]] * (1 if kd is None else 2)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize('labels', [True, False])
def test_the_head_computes_no_loss(labels: bool, algorithm: Callable, batch: Callable) -> None:
    model = algorithm(calculate_student_loss=False, torch_compile=dict(backend='eager'))
    images, samples = batch()
    samples = samples if labels else [DataSample() for _ in samples]
    with mock.patch.object(type(model.student.head), 'loss', side_effect=AssertionError):
        for _ in range(2):
            losses = model(images, samples, mode='loss')
    assert losses['distill.loss_icd'].requires_grad
    assert model.torch_compile


def test_a_student_that_is_not_trained_gets_no_gradients(algorithm: Callable, unlabelled: tuple) -> None:
    model = algorithm(calculate_student_loss=False, student_trainable=False)
    model(*unlabelled, mode='loss')['distill.loss_icd'].backward()
    assert all(parameter.grad is None for parameter in model.student.parameters())
    assert model.distiller.connectors['icd_student'].linear.weight.grad is not None


def test_what_the_loss_gets_is_recorded_where_there_are_labels(
    algorithm: Callable, batch: Callable, unlabelled: tuple
) -> None:
    with_loss = algorithm(distiller=copy.deepcopy(DKD))
    without = copy.deepcopy(with_loss)
    without.calculate_student_loss = False
    want = with_loss(*batch(), mode='loss')
    assert without(*batch(), mode='loss') == {'distill.loss_dkd': want['distill.loss_dkd']}
    refused = algorithm(distiller=copy.deepcopy(DKD), calculate_student_loss=False)
    with pytest.raises(SettingError, match=r'loss_dkd \(DKDLoss\).*student_recorders: gt\)'):
        refused(*unlabelled, mode='loss')


@MODELS.register_module()
class LossOfLabels(nn.Module):
    """A loss of a user's that reads the labels of the batch."""

    def forward(self, s_feature: Tensor, t_feature: Tensor, data_samples: list) -> Tensor:
        return torch.cat([sample.gt_label for sample in data_samples]).float().mean() + 0 * s_feature.sum()


def test_a_loss_that_reads_labels_is_named(algorithm: Callable, batch: Callable, unlabelled: tuple) -> None:
    distiller = dict(type='FeatureDistiller', losses=dict(own=dict(loss=dict(type='LossOfLabels'), features='pooled')))
    model = algorithm(distiller=distiller, calculate_student_loss=False)
    with pytest.raises(SettingError, match=r'model\.distiller\.distill_losses\.loss_own, LossOfL'):
        model(*unlabelled, mode='loss')
    assert model(*batch(), mode='loss')['distill.loss_own'].item() == 2.5


def test_images_without_labels_are_refused_where_the_own_loss_reads_them(
    algorithm: Callable, unlabelled: tuple
) -> None:
    with pytest.raises(SettingError, match=r'\(LinearClsHead\).*calculate_student_loss=False'):
        algorithm()(*unlabelled, mode='loss')


def test_the_own_loss_is_missed_before_an_initial_stage_that_does_not_read_labels(
    algorithm: Callable, unlabelled: tuple
) -> None:
    initial = dict(loss=dict(type='AttentionTransferLoss'), features='last_map', stage='initial')
    model = algorithm(distiller=dict(type='FeatureDistiller', initial_epochs=1, losses=dict(at=initial)))
    model.distiller.set_stage('initial')
    with pytest.raises(SettingError, match='calculate_student_loss'):
        model(*unlabelled, mode='loss')


def test_a_stopped_distillation_without_the_own_loss_is_refused(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(calculate_student_loss=False)
    model.distillation_stopped = True
    with pytest.raises(SettingError, match=r'StopDistillHook.*calculate_student_loss=False'):
        model(*batch(), mode='loss')
