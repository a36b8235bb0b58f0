"""ABKD and its variants against golden numbers of the published code, slow rewrites, and known divergences."""

import math

import pytest
import torch
from logit_cases import TOLERANCES, Golden, cases, kl, logits, softmax
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.abkd_loss import ABDKDLoss, ABKDLoss
from icd_mmrazor.models.losses.functional import standardized

POWERS = dict(alpha='alpha', beta='beta')


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('case', cases('abkd', 'ABKD'))
def test_golden_numbers(case: str, dtype: torch.dtype) -> None:
    golden = Golden('abkd', case, 'ABKD', dtype)
    golden.check(ABKDLoss(**golden.settings(**POWERS, tau='tau'))(golden.student, golden.teacher))


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('case', cases('abkd', 'ABLSD'))
def test_golden_numbers_of_ablsd(case: str, dtype: torch.dtype) -> None:
    golden = Golden('abkd', case, 'ABLSD', dtype)
    settings = golden.settings(**POWERS, tau='tau')
    # what an entry of losses does with standardize=True
    features = (standardized(z) for z in (golden.student, golden.teacher))
    golden.check(ABKDLoss(**settings, loss_weight=settings['tau'] ** 2)(*features))


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('case', cases('abkd', 'ABTTM'))
def test_golden_numbers_of_abttm(case: str, dtype: torch.dtype) -> None:
    golden = Golden('abkd', case, 'ABTTM', dtype)
    golden.check(ABKDLoss(**golden.settings(**POWERS, gamma='gamma'), tau=1.0)(golden.student, golden.teacher))


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('case', cases('abkd', 'ABDKD'))
def test_golden_numbers_of_abdkd(case: str, dtype: torch.dtype) -> None:
    golden = Golden('abkd', case, 'ABDKD', dtype)
    settings = golden.settings(**POWERS, dkd_alpha='dkd_alpha', dkd_beta='dkd_beta', tau='tau')
    golden.check(ABDKDLoss(**settings)(golden.student, golden.teacher, golden.labels))


def slow(p: list[float], q: list[float], alpha: float, beta: float) -> float:
    """Return the general form of two rows of probabilities."""
    both = alpha + beta
    inside = [a**alpha * b**beta - alpha / both * a**both - beta / both * b**both for a, b in zip(p, q, strict=True)]
    return -math.fsum(inside) / (alpha * beta)


def softened(logits: Tensor, factor: float) -> list[list[float]]:
    return [softmax([factor * x for x in row]) for row in logits.tolist()]


DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(('alpha', 'beta'), [(0.8, 0.3), (0.5, 0.5), (1.0, 1.0), (1.5, -0.4), (-0.2, 0.9)])
def test_equals_a_slow_rewrite(alpha: float, beta: float, dtype: torch.dtype) -> None:
    for images, classes in ((1, 2), (5, 7), (3, 100)):
        student, teacher, _ = logits(dtype, images, classes)
        rows = zip(softened(teacher, 0.1), softened(student, 0.5), strict=True)
        want = 3 * sum(slow(p, q, alpha, beta) for p, q in rows) / images
        got = ABKDLoss(alpha, beta, tau=2.0, gamma=0.2, loss_weight=3.0)(student, teacher).item()
        assert got == pytest.approx(want, rel=1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_abdkd_equals_a_slow_rewrite(dtype: torch.dtype) -> None:
    for images, classes in ((1, 3), (5, 7), (3, 100)):
        student, teacher, labels = logits(dtype, images, classes)
        total = 0.0
        for s, t, k in zip(student.tolist(), teacher.tolist(), labels, strict=True):
            p, q = (softmax([x / 2 for x in row]) for row in (t, s))
            total += 0.5 * kl(*([x[k], math.fsum(x[:k] + x[k + 1 :])] for x in (p, q)))
            p, q = (softmax([x / 2 for x in row[:k] + row[k + 1 :]]) for row in (t, s))
            total += 6 * slow(p, q, 0.7, 0.4)
        loss = ABDKDLoss(0.7, 0.4, dkd_alpha=0.5, dkd_beta=6.0, tau=2.0, loss_weight=3.0)
        got = loss(student, teacher, torch.tensor(labels)).item()
        assert got == pytest.approx(3 * 4 * total / images, rel=1e-9 if dtype == torch.float64 else 1e-4)


def test_known_divergences() -> None:
    student, teacher, _ = logits(torch.float64)
    p, q = softened(teacher, 1.0), softened(student, 1.0)
    pairs = list(zip(p, q, strict=True))
    for powers, want in {
        (1, 0): sum(kl(a, b) for a, b in pairs),
        (0, 1): sum(kl(b, a) for a, b in pairs),
        (0.5, 0.5): sum(2 * (math.sqrt(x) - math.sqrt(y)) ** 2 for a, b in pairs for x, y in zip(a, b, strict=True)),
        (1, 1): sum((x - y) ** 2 / 2 for a, b in pairs for x, y in zip(a, b, strict=True)),
        (0, 0): sum(math.log(x / y) ** 2 / 2 for a, b in pairs for x, y in zip(a, b, strict=True)),
    }.items():
        got = ABKDLoss(*powers, tau=1.0)(student, teacher).item()
        assert got == pytest.approx(want / len(pairs), rel=1e-10), powers


@pytest.mark.parametrize(
    ('powers', 'share'), [((0.7, 0.0), 0.7), ((0.0, 0.6), 0.6), ((0.5, -0.5), 0.5), ((1.0, 0.0), 1), ((0.0, 0.0), 1)]
)
def test_the_released_forms_are_these_shares_of_the_limits(powers: tuple[float, float], share: float) -> None:
    student, teacher, _ = logits(torch.float64)
    alpha, beta = powers
    values = []
    for step in (1e-4, -1e-4):
        # from both sides, so that the difference from the limit is of second order
        near = (alpha + step, beta + step * (1.0 if 0 in powers else 0.0))
        values.append(ABKDLoss(*near, tau=1.0)(student, teacher).item())
    assert ABKDLoss(alpha, beta, tau=1.0)(student, teacher).item() == pytest.approx(share * sum(values) / 2, rel=1e-4)


@pytest.mark.parametrize('powers', [(0.8, 0.3), (0.3, 0.8), (1, 0), (0, 1), (0, 0), (0.5, -0.5), (1.5, -0.2)], ids=str)
def test_a_student_equal_to_its_teacher_is_the_minimum(powers: tuple[float, float]) -> None:
    student, teacher, labels = logits(torch.float64)
    for loss, given in ((ABKDLoss(*powers), ()), (ABDKDLoss(*powers), (torch.tensor(labels),))):
        equal = teacher.clone().requires_grad_()
        value = loss(equal, teacher, *given)
        (gradient,) = torch.autograd.grad(value, equal)
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert gradient.abs().max() < 1e-12
        assert loss(student, teacher, *given) > 0.01


@pytest.mark.parametrize('cls', [ABKDLoss, ABDKDLoss])
@pytest.mark.parametrize(
    'setting',
    [dict(alpha=math.nan), dict(beta='0'), dict(tau=0), dict(loss_weight=None)],
    ids=str,
)
def test_bad_settings_are_refused(setting: dict, cls: type) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'{cls.__name__}: {name}={value!r}'):
        cls(**setting)


@pytest.mark.parametrize('setting', [dict(dkd_alpha=-1), dict(dkd_beta=None)], ids=str)
def test_bad_weights_of_the_parts_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'ABDKDLoss: {name}={value!r}'):
        ABDKDLoss(**setting)


def test_a_bad_factor_of_the_teacher_is_refused() -> None:
    with pytest.raises(SettingError, match='ABKDLoss: gamma=0'):
        ABKDLoss(gamma=0)


@pytest.mark.parametrize('powers', [(-0.5, 0), (0, -0.5), (-0.5, 0.5)], ids=str)
def test_limits_whose_released_form_is_negative_are_refused(powers: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match=f'alpha={powers[0]} and beta={powers[1]}'):
        ABKDLoss(*powers)
