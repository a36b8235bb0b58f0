"""WSLD against golden numbers of its authors' code, a slow rewrite, and mmrazor's loss."""

import math

import pytest
import torch
from helpers import shipped
from logit_cases import DTYPES, Case, cases, on_pair, random_logits, rows, softmax
from mmrazor.models.losses import WSLD
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.wsld_loss import WeightedSoftLabelLoss

CASES = pytest.mark.parametrize('name', cases('wsld', 'WSLD'))


def test_there_are_golden_cases() -> None:
    assert len(cases('wsld', 'WSLD')) == 6


@DTYPES
@CASES
def test_golden_numbers(name: str, dtype: torch.dtype) -> None:
    case = Case('wsld', name, 'WSLD', dtype)
    case.check(WeightedSoftLabelLoss(case['tau'])(case.student, case.teacher, case.labels))


@CASES
def test_the_published_objective(name: str) -> None:
    case = Case('wsld', name, 'WSLD')
    loss = WeightedSoftLabelLoss(case['tau'], loss_weight=case['loss_weight'])
    case.check_total(loss(case.student, case.teacher, case.labels))


def slow(student: Tensor, teacher: Tensor, labels: Tensor, tau: float) -> float:
    values = []
    for s, t, label in zip(*rows(student, teacher, labels), strict=True):
        own, of_teacher = (-math.log(softmax(row)[label]) for row in (s, t))
        weight = 1 - math.exp(-own / (of_teacher + 1e-7))
        soft = -sum(p * math.log(q) for p, q in zip(softmax(t, tau), softmax(s, tau), strict=True))
        values.append(weight * soft)
    return tau**2 * sum(values) / len(values)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [(1, 2), (2, 3), (7, 5), (4, 30)], ids=str)
def test_equals_a_slow_rewrite(shape: tuple[int, int], dtype: torch.dtype) -> None:
    inputs = random_logits(dtype, *shape)
    got = WeightedSoftLabelLoss(2.0, loss_weight=3.0)(*inputs).item()
    assert got == pytest.approx(3 * slow(*inputs, 2.0), rel=1e-9 if dtype == torch.float64 else 1e-4)


def test_any_number_of_classes_where_mmrazors_needs_to_be_told() -> None:
    inputs = random_logits(torch.float32, 4, 7)
    with pytest.raises(RuntimeError, match='1000'):
        WSLD(tau=2.0)(*inputs)
    want = WSLD(tau=2.0, num_classes=7)(*inputs).item()
    assert WeightedSoftLabelLoss(2.0)(*inputs).item() == pytest.approx(want, rel=1e-6)


def test_an_image_that_the_student_knows_counts_little() -> None:
    teacher, labels = torch.randn(2, 4), torch.tensor([0, 1])
    for wrong, share in ((0, 0.0), (1, 1.0)):
        student = torch.zeros(2, 4)
        student[[0, 1], [wrong, 1 + wrong]] = 60.0
        student.requires_grad_()
        value = WeightedSoftLabelLoss(1.0)(student, teacher, labels)
        soft = torch.nn.functional.cross_entropy(student, teacher.softmax(1))
        assert value.item() == pytest.approx(share * soft.item(), abs=1e-6)


@pytest.mark.parametrize(
    ('settings', 'message'), [(dict(tau=0), 'tau=0'), (dict(loss_weight='1'), "loss_weight='1'")], ids=str
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'WeightedSoftLabelLoss: {message}'):
        WeightedSoftLabelLoss(**settings)


@pytest.mark.parametrize('labels', [[0, 1], [0.0, 1.0, 2.0], [[1, 0, 0, 0]] * 3], ids=str)
def test_labels_that_are_not_one_class_for_each_image_are_refused(labels: list) -> None:
    student, teacher = torch.randn(2, 3, 4)
    with pytest.raises(SettingError, match='WeightedSoftLabelLoss: gt_labels'):
        WeightedSoftLabelLoss()(student, teacher, torch.tensor(labels))


def test_the_settings_of_the_authors() -> None:
    loss = shipped('_base_/methods/wsld.py').wsld.losses.wsld.loss
    assert (loss.tau, loss.loss_weight) == (4.0, 2.25)
    loss = on_pair('wsld', 'resnet34_resnet18_in1k').losses.wsld.loss
    assert (loss.tau, loss.loss_weight) == (2.0, 2.5)
    assert recipes.needs_of('wsld') == {'logits', 'labels'}
