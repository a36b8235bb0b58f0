"""NKD against golden numbers of its authors' code, and a slow rewrite."""

import math

import pytest
import torch
from helpers import shipped
from logit_cases import DTYPES, Case, cases, on_pair, random_logits, rows, softmax
from mmpretrain.structures import DataSample
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.class_labels import ClassLabels
from icd_mmrazor.models.losses.nkd_loss import NKDLoss

CASES = pytest.mark.parametrize('name', cases('nkd', 'NKD'))


def test_there_are_golden_cases() -> None:
    assert len(cases('nkd', 'NKD')) == 6
    assert cases('nkd', 'NKD_soft') == ['other']


@DTYPES
@CASES
def test_golden_numbers(name: str, dtype: torch.dtype) -> None:
    case = Case('nkd', name, 'NKD', dtype)
    case.check(NKDLoss(case['tau'], case['gamma'])(case.student, case.teacher, case.labels))


@CASES
def test_the_published_objective(name: str) -> None:
    case = Case('nkd', name, 'NKD')
    loss = NKDLoss(case['tau'], case['gamma'], loss_weight=case['loss_weight'])
    case.check_total(loss(case.student, case.teacher, case.labels))


def test_golden_numbers_of_mixed_images() -> None:
    case = Case('nkd', 'other', 'NKD_soft')
    scores = torch.from_numpy(case.numbers['other/target_scores'])
    samples = [DataSample().set_gt_score(score) for score in scores]
    labels = ClassLabels('NKDLoss', NKDLoss.reads_scores)(samples)
    case.check(NKDLoss(case['tau'], case['gamma'])(case.student, case.teacher, labels))


def slow(student: Tensor, teacher: Tensor, labels: Tensor, gamma: float, tau: float) -> float:
    values = []
    for s, t, label in zip(*rows(student, teacher, labels), strict=True):
        values.append(-softmax(t)[label] * math.log(softmax(s)[label]))
        s_others, t_others = (softmax(row[:label] + row[label + 1 :], tau) for row in (s, t))
        values[-1] -= gamma * tau**2 * sum(p * math.log(q) for p, q in zip(t_others, s_others, strict=True))
    return sum(values) / len(values)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [(1, 2), (2, 3), (7, 5), (4, 30)], ids=str)
def test_equals_a_slow_rewrite(shape: tuple[int, int], dtype: torch.dtype) -> None:
    inputs = random_logits(dtype, *shape)
    got = NKDLoss(2.0, 1.5, loss_weight=3.0)(*inputs).item()
    assert got == pytest.approx(3 * slow(*inputs, 1.5, 2.0), rel=1e-9 if dtype == torch.float64 else 1e-4)


def test_it_still_draws_an_equal_student_towards_the_label() -> None:
    logits, _, labels = random_logits(torch.float64, 5, 4)
    student = logits.clone().requires_grad_()
    NKDLoss()(student, logits, labels).backward()
    assert (student.grad.gather(1, labels[:, None]) < 0).all()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [(dict(tau=0), 'tau=0'), (dict(gamma=-1), 'gamma=-1'), (dict(loss_weight='1'), "loss_weight='1'")],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'NKDLoss: {message}'):
        NKDLoss(**settings)


def test_scores_are_not_labels_in_a_plain_loop() -> None:
    student, teacher = torch.randn(2, 3, 4)
    with pytest.raises(SettingError, match='NKDLoss: gt_labels'):
        NKDLoss()(student, teacher, torch.rand(3, 4))


def test_the_settings_of_the_authors() -> None:
    entry = shipped('_base_/methods/nkd.py').nkd.losses.nkd
    assert (entry.loss.tau, entry.loss.gamma) == (3.0, 3.5)
    entry = on_pair('nkd', 'resnet34_resnet18_in1k').losses.nkd
    assert (entry.loss.tau, entry.loss.gamma) == (1.0, 1.5)
    assert recipes.needs_of('nkd') == {'logits', 'labels', 'scores'}
