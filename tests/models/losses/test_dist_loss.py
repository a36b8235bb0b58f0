"""DIST against golden numbers of its authors' code, a slow rewrite, and mmrazor's loss."""

import math
import statistics

import pytest
import torch
from helpers import shipped
from logit_cases import DTYPES, Case, cases, on_pair, random_logits, rows, softmax
from mmrazor.models.losses import DISTLoss
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.dist_loss import PearsonCorrelationLoss

CASES = pytest.mark.parametrize('name', cases('dist', 'DIST'))


def of_case(case: Case, **settings: float) -> PearsonCorrelationLoss:
    return PearsonCorrelationLoss(case['tau'], inter_weight=case['beta'], intra_weight=case['gamma'], **settings)


def test_there_are_golden_cases() -> None:
    assert len(cases('dist', 'DIST')) == 7


@DTYPES
@CASES
def test_golden_numbers(name: str, dtype: torch.dtype) -> None:
    case = Case('dist', name, 'DIST', dtype)
    case.check(of_case(case)(case.student, case.teacher))


@CASES
def test_the_published_objective(name: str) -> None:
    case = Case('dist', name, 'DIST')
    case.check_total(of_case(case, loss_weight=case['loss_weight'])(case.student, case.teacher))


def slow(student: Tensor, teacher: Tensor, tau: float, inter_weight: float, intra_weight: float) -> float:
    def distances(s_rows: list[list[float]], t_rows: list[list[float]]) -> float:
        values = []
        for s_row, t_row in zip(s_rows, t_rows, strict=True):
            s, t = ([x - statistics.fmean(row) for x in row] for row in (s_row, t_row))
            product = sum(x * y for x, y in zip(s, t, strict=True))
            values.append(1 - product / (math.hypot(*s) * math.hypot(*t) + 1e-8))
        return statistics.fmean(values)

    s, t = ([softmax(row, tau) for row in logits] for logits in rows(student, teacher))
    columns = ([list(column) for column in zip(*each, strict=True)] for each in (s, t))
    return tau**2 * (inter_weight * distances(s, t) + intra_weight * distances(*columns))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [(1, 4), (2, 2), (7, 5), (4, 30)], ids=str)
def test_equals_a_slow_rewrite(shape: tuple[int, int], dtype: torch.dtype) -> None:
    student, teacher, _ = random_logits(dtype, *shape)
    want = 3 * slow(student, teacher, 2.0, 0.5, 1.5)
    got = PearsonCorrelationLoss(2.0, 0.5, 1.5, loss_weight=3.0)(student, teacher).item()
    # a number near 0 is the difference of larger ones
    assert got == pytest.approx(want, **(dict(rel=1e-9) if dtype == torch.float64 else dict(rel=1e-4, abs=1e-5)))


def test_one_image_has_a_gradient_from_its_row() -> None:
    student = torch.randn(1, 6, requires_grad=True)
    value = PearsonCorrelationLoss(tau=4.0, inter_weight=0.0)(student, torch.randn(1, 6))
    assert value.item() == 16
    PearsonCorrelationLoss()(student, torch.randn(1, 6)).backward()
    assert 0 < student.grad.abs().max() < 100


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_a_classifier_of_zeros_gets_no_gradient_where_mmrazors_explodes(dtype: torch.dtype) -> None:
    """Otherwise, both are the same."""
    student, teacher, _ = random_logits(dtype, 8, 10)
    ours, stock = PearsonCorrelationLoss(4.0), DISTLoss(tau=4.0)
    torch.testing.assert_close(ours(student, teacher), stock(student, teacher))
    # rounding errors of equal logits, in the second case
    for logits in (0 * student, torch.full_like(student, 0.3)):
        logits.requires_grad_()
        (found,) = torch.autograd.grad(ours(logits, teacher), logits)
        assert found.abs().max() == 0
        assert ours(logits, teacher).item() == pytest.approx(32, rel=1e-5)
    zeros = (0 * student).requires_grad_()
    (found,) = torch.autograd.grad(stock(zeros, teacher), zeros)
    assert found.abs().max() > 1e5


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(tau=0), 'tau=0'),
        (dict(inter_weight=-1), 'inter_weight=-1'),
        (dict(intra_weight='1'), "intra_weight='1'"),
        (dict(loss_weight=math.nan), 'loss_weight=nan'),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'PearsonCorrelationLoss: {message}'):
        PearsonCorrelationLoss(**settings)


@pytest.mark.parametrize('shapes', [((3, 4), (3, 5)), ((3, 4), (2, 4)), ((3, 4, 2, 2), (3, 4, 2, 2)), ((0, 4), (0, 4))])
def test_logits_that_cannot_be_compared_are_refused(shapes: tuple) -> None:
    with pytest.raises(SettingError, match='PearsonCorrelationLoss'):
        PearsonCorrelationLoss()(*(torch.randn(shape) for shape in shapes))


def test_the_settings_of_the_authors() -> None:
    entry = shipped('_base_/methods/dist.py').dist.losses.dist
    assert (entry.loss.tau, entry.loss.loss_weight) == (4.0, 2.0)
    assert on_pair('dist', 'resnet34_resnet18_in1k').losses.dist.loss.tau == 1.0
    assert recipes.needs_of('dist') == {'logits'}
