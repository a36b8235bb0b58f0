"""Batches of which a part has labels: the task counts those images, the distillation counts all."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DKD
from mmpretrain.models import ClsDataPreprocessor, ClsHead
from mmpretrain.registry import MODELS as CLASSIFIERS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.nn import functional as F

from icd_mmrazor.datasets.samples import mark_unlabeled, merge_samples
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.records import recorders_of
from icd_mmrazor.models.algorithms.separate_mixing import SeparateMixingPreprocessor

LABELED, WHOLE = 2, 6
KD = dict(type='ICDDistiller', kd=dict(tau=4.0))
RESNET = dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8)
TRANSFORMER = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
    img_size=32,
    patch_size=16,
)
MIXUP, CUTMIX = dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)


@pytest.fixture
def partly(batch: Callable) -> tuple[Tensor, list[DataSample]]:
    """Six images, of which the first two have labels."""
    images, samples = batch(WHOLE)
    for sample in samples[LABELED:]:
        mark_unlabeled(sample)
    for index, sample in enumerate(samples):
        sample.set_metainfo({'sample_idx': index})
    return images, samples


@pytest.mark.parametrize('merged', [False, True])
def test_the_losses_are_those_of_a_loop_written_by_hand(merged: bool, algorithm: Callable, partly: tuple) -> None:
    model = algorithm(distiller=copy.deepcopy(KD))
    loop = copy.deepcopy(model)
    images, samples = partly
    losses = model(images, merge_samples(samples) if merged else samples, mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()

    logits = loop.student(images, mode='tensor')
    with torch.no_grad():
        target = loop.teacher(images, mode='tensor')
    task = F.cross_entropy(logits[:LABELED], torch.tensor([0, 1]))
    kd = 16 * F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(target / 4, 1), reduction='batchmean')
    torch.testing.assert_close(losses['student.loss'], task, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses['distill.loss_kd'], kd, rtol=1e-5, atol=1e-6)
    (task + kd).backward()
    # the classifier gets the gradients of both, and of nothing else
    torch.testing.assert_close(
        model.student.head.fc.weight.grad, loop.student.head.fc.weight.grad, rtol=1e-4, atol=1e-6
    )
    statistics = [each.student.state_dict() for each in (model, loop)]
    torch.testing.assert_close(statistics[0], statistics[1])
    assert all(recorder.data_buffer == [] for recorder in recorders_of(model.distiller))


def test_in_eval_mode_it_is_the_loss_of_the_labelled_images_alone(algorithm: Callable, partly: tuple) -> None:
    model, (images, samples) = algorithm().eval(), partly
    alone = model(images[:LABELED], samples[:LABELED], mode='loss')['student.loss']
    torch.testing.assert_close(model(images, samples, mode='loss')['student.loss'], alone, rtol=1e-6, atol=1e-6)


def test_a_batch_in_which_all_have_labels_is_treated_as_ever(algorithm: Callable, batch: Callable) -> None:
    model = algorithm()
    other = copy.deepcopy(model)
    images, samples = batch()
    assert torch.equal(
        model(images, samples, mode='loss')['student.loss'], other.student(images, samples, 'loss')['loss']
    )


def test_features_of_all_images_are_compared(algorithm: Callable, partly: tuple) -> None:
    """Recorded once, whatever the head is run for."""
    model, (images, samples) = algorithm().eval(), partly
    found = model(images, samples, mode='loss')['distill.loss_icd']
    without = copy.deepcopy(model)
    without.calculate_student_loss = False
    assert torch.equal(without(images, samples, mode='loss')['distill.loss_icd'], found)


STUDENTS = {
    'ViT': dict(backbone=TRANSFORMER, head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16)),
    'several labels': dict(
        backbone=RESNET,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64),
    ),
    'smoothed': dict(
        backbone=RESNET,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=64,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
            cal_acc=True,
        ),
    ),
}


@pytest.mark.parametrize('student', STUDENTS.values(), ids=STUDENTS)
def test_other_heads(student: dict, algorithm: Callable, partly: tuple) -> None:
    model = algorithm(architecture=dict(type='ImageClassifier', **copy.deepcopy(student))).eval()
    images, samples = partly
    expected = model.student(images[:LABELED], samples[:LABELED], mode='loss')
    found = model(images, samples, mode='loss')
    for name, value in expected.items():
        torch.testing.assert_close(found[f'student.{name}'], value, rtol=1e-5, atol=1e-6)


def test_half_precision(algorithm: Callable, partly: tuple) -> None:
    model, (images, samples) = algorithm(), partly
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(images, samples, mode='loss')
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.slow
def test_compiled(algorithm: Callable, partly: tuple) -> None:
    model = algorithm(torch_compile=dict(backend='eager'))
    plain, (images, samples) = copy.deepcopy(model), partly
    plain.torch_compile = False
    for _ in range(2):
        found, expected = (each(images, copy.deepcopy(samples), mode='loss') for each in (model, plain))
        torch.testing.assert_close(found, expected)
    assert model.torch_compile


CRD = dict(
    type='FeatureDistiller',
    losses=dict(
        crd=dict(
            loss=dict(type='ContrastiveRepresentationLoss', num_samples=9),
            features='pooled',
            student_connector=dict(type='LinearProjection'),
            teacher_connector=dict(type='LinearProjection'),
        )
    ),
)
# what the loss takes, under a name that does not say so
TARGETS = copy.deepcopy(DKD)
TARGETS['distill_losses'] = dict(loss_kl=dict(type='KLDivergence'))
TARGETS['loss_forward_mappings'] = dict(
    loss_kl=dict(
        preds_S=dict(from_student=True, recorder='gt', data_idx=0), preds_T=dict(from_student=False, recorder='fc')
    )
)


@CLASSIFIERS.register_module(force=True)
class HeadOfAUser(ClsHead):
    """A head whose loss is not that of its scores alone."""

    def loss(self, feats: tuple, data_samples: list, **kwargs: Any) -> dict:
        return super().loss(feats, data_samples)


@pytest.mark.parametrize(
    ('distiller', 'reader'),
    [
        (CRD, r'ContrastiveRepresentationLoss \(loss_crd\)'),
        (DKD, r'DKDLoss \(loss_dkd\)'),
        (TARGETS, r'loss_kl \(KLDivergence\)'),
        (dict(type='MixedDistiller', distillers=dict(a=CRD)), r'ContrastiveRepresentationLoss \(loss_crd\)'),
    ],
    ids=['CRD', 'DKD', 'targets', 'mixed'],
)
def test_a_loss_that_reads_every_label_is_refused(
    distiller: dict, reader: str, algorithm: Callable, partly: tuple
) -> None:
    with pytest.raises(SettingError, match=f'{reader} reads the label of every image'):
        algorithm(distiller=copy.deepcopy(distiller))(*partly, mode='loss')


@pytest.mark.parametrize(
    'head', [dict(type='ArcFaceClsHead', num_classes=10, in_channels=64), dict(type='HeadOfAUser')]
)
def test_a_head_that_needs_the_features_of_the_same_images_is_refused(
    head: dict, algorithm: Callable, partly: tuple
) -> None:
    model = algorithm()
    # no distiller knows the classifier of these
    model.architecture.head = CLASSIFIERS.build(head)
    with pytest.raises(SettingError, match=rf'{head["type"]}.*part of a batch'):
        model(*partly, mode='loss')


def test_labelled_images_that_do_not_come_first(algorithm: Callable, partly: tuple) -> None:
    images, samples = partly
    with pytest.raises(SettingError, match='PartlyLabeledBatchSampler'):
        algorithm()(images, samples[::-1], mode='loss')


@pytest.mark.parametrize('augment', [MIXUP, CUTMIX], ids=['Mixup', 'CutMix'])
def test_images_are_mixed_among_their_like(augment: dict, partly: tuple) -> None:
    """Each part as mmpretrain's own preprocessor mixes a batch of it, with the same random numbers."""
    settings = dict(num_classes=10, mean=[1.0] * 3, std=[2.0] * 3, batch_augments=dict(augments=augment))
    images, samples = partly

    def part(rows: slice) -> dict:
        return {'inputs': images[rows].clone(), 'data_samples': copy.deepcopy(samples[rows])}

    results = []
    for preprocessor in (SeparateMixingPreprocessor(**settings), ClsDataPreprocessor(**settings)):
        torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002 mmpretrain draws from it
        if isinstance(preprocessor, SeparateMixingPreprocessor):
            results.append(preprocessor(part(slice(None)), True))
        else:
            first, second = (preprocessor(part(rows), True) for rows in (slice(LABELED), slice(LABELED, None)))
            inputs = torch.cat([first['inputs'], second['inputs']])
            results.append({'inputs': inputs, 'data_samples': first['data_samples'] + second['data_samples']})
    assert torch.equal(results[0]['inputs'], results[1]['inputs'])
    assert not torch.equal(results[0]['inputs'], (images - 1) / 2)
    scores = [torch.stack([sample.gt_score for sample in result['data_samples']]) for result in results]
    assert torch.equal(*scores)
    torch.testing.assert_close(scores[0].sum(1), torch.tensor([1.0] * LABELED + [0.0] * (WHOLE - LABELED)))
    # in a validation nothing is mixed
    plain = SeparateMixingPreprocessor(**settings)(part(slice(None)))
    torch.testing.assert_close(plain['inputs'], (images - 1) / 2)


@pytest.mark.parametrize('augment', [MIXUP, CUTMIX], ids=['Mixup', 'CutMix'])
def test_images_without_any_labels_are_mixed(augment: dict, algorithm: Callable, batch: Callable) -> None:
    """As mmpretrain mixes them with labels; both networks see the mixed images."""
    settings = dict(num_classes=10, mean=[1.0] * 3, std=[2.0] * 3, batch_augments=dict(augments=augment))
    model = algorithm(data_preprocessor=settings, calculate_student_loss=False)
    images, samples = batch()
    torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002 mmpretrain draws from it
    expected = ClsDataPreprocessor(**settings)({'inputs': images.clone(), 'data_samples': samples}, True)['inputs']
    for samples in ([DataSample() for _ in images], None):
        torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
        found = model.data_preprocessor({'inputs': images.clone(), 'data_samples': samples}, True)
        assert torch.equal(found['inputs'], expected)
        assert torch.isfinite(model(**found, mode='loss')['distill.loss_icd'])


def test_an_algorithm_mixes_like_the_student_that_asks_for_it(
    network: Callable, algorithm: Callable, partly: tuple
) -> None:
    student = network('res8')
    student.train_cfg = dict(augments=MIXUP)
    student.head.loss = dict(type='CrossEntropyLoss', use_soft=True)
    model = algorithm(
        architecture=student,
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', mean=[0.1] * 3, std=[0.7] * 3, to_rgb=True),
    )
    assert type(model.data_preprocessor) is SeparateMixingPreprocessor
    same = ClsDataPreprocessor(mean=[0.1] * 3, std=[0.7] * 3, to_rgb=True, num_classes=10, to_onehot=True)
    images, samples = partly
    data = [
        each({'inputs': images, 'data_samples': copy.deepcopy(samples)}) for each in (model.data_preprocessor, same)
    ]
    assert torch.equal(data[0]['inputs'], data[1]['inputs'])
    batch = model.data_preprocessor({'inputs': images, 'data_samples': samples}, True)
    losses = model(batch['inputs'], batch['data_samples'], mode='loss')
    logits = copy.deepcopy(model).student(batch['inputs'], mode='tensor')
    scores = torch.stack([sample.gt_score for sample in batch['data_samples'][:LABELED]])
    expected = -(scores * logits[:LABELED].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(losses['student.loss'], expected, rtol=1e-5, atol=1e-6)


class Mixing(ClsDataPreprocessor):
    """A preprocessor of a user."""


def test_a_preprocessor_that_mixes_all_images_is_refused(algorithm: Callable, partly: tuple) -> None:
    model = algorithm(data_preprocessor=Mixing(num_classes=10, batch_augments=dict(augments=MIXUP)))
    with pytest.raises(SettingError, match='SeparateMixingPreprocessor'):
        model(*partly, mode='loss')


@pytest.mark.parametrize(('kd', 'loss', 'trained'), [(None, False, False), ({}, False, True), (None, True, True)])
def test_a_classifier_that_no_loss_reads_is_not_trained(
    kd: dict | None, loss: bool, trained: bool, algorithm: Callable, partly: tuple
) -> None:
    """DDP would wait for its gradient."""
    model = algorithm(distiller=dict(type='ICDDistiller', kd=kd), calculate_student_loss=loss)
    losses = model(*partly, mode='loss')
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert model.student.head.fc.weight.requires_grad is trained
    assert [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None] == []


def test_predictions_for_metrics(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(predict_also=['teacher', 'pooled']).eval()
    images, samples = batch()
    with torch.no_grad():
        found = model(images, samples, mode='predict')
        plain = model.student(images, copy.deepcopy(samples), mode='predict')
        target = model.teacher(images, mode='tensor').softmax(1)
        features = model.student.extract_feat(images)[-1]
    for index, (sample, other) in enumerate(zip(found, plain, strict=True)):
        assert torch.equal(sample.pred_score, other.pred_score)
        torch.testing.assert_close(sample.teacher_score, target[index])
        torch.testing.assert_close(sample.feature, features[index])
    usual = algorithm().eval()(*batch(), mode='predict')[0]
    assert {'teacher_score', 'feature'} & {*usual.keys()} == set()


@pytest.mark.parametrize('names', ['logits', ['teacher', 'maps'], 3, None])
def test_predictions_that_do_not_exist(names: Any, algorithm: Callable) -> None:
    with pytest.raises(SettingError, match='predict_also'):
        algorithm(predict_also=names)


def test_a_teacher_without_a_classifier_predicts_nothing(algorithm: Callable) -> None:
    teacher = dict(type='ImageClassifier', backbone=RESNET, neck=dict(type='GlobalAveragePooling'))
    settings = dict(teacher=teacher, teacher_ckpt=None, random_teacher=True, calculate_student_loss=False)
    with pytest.raises(SettingError, match=r"predict_also=\['teacher'\].*KNNAccuracy"):
        algorithm(**settings, predict_also=['teacher'])
    assert algorithm(**settings, predict_also=['pooled'])
