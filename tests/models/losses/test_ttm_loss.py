"""TTM and WTTM against golden numbers of the published code and a slow rewrite."""

import math

import pytest
import torch
from logit_cases import TOLERANCES, Golden, cases, kl, logits, softmax
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.ttm_loss import TTMLoss

METHODS = {'TTM': False, 'WTTM': True}


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('case', cases('ttm', 'TTM'))
def test_golden_numbers(case: str, method: str, dtype: torch.dtype) -> None:
    golden = Golden('ttm', case, method, dtype)
    loss = TTMLoss(**golden.settings(gamma='gamma'), weighted=METHODS[method])
    golden.check(loss(golden.student, golden.teacher))


def slow(student: Tensor, teacher: Tensor, gamma: float, weighted: bool) -> float:
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        powers = [p**gamma for p in softmax(t)]
        softened = [power / sum(powers) for power in powers]
        total += (sum(powers) if weighted else 1) * kl(softened, softmax(s))
    return total / len(student)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('gamma', [0.05, 0.5, 1.0, 2.0])
def test_equals_a_slow_rewrite(gamma: float, weighted: bool, dtype: torch.dtype) -> None:
    for images, classes in ((1, 2), (5, 7), (3, 100)):
        student, teacher, _ = logits(dtype, images, classes)
        got = TTMLoss(gamma, weighted, loss_weight=3.0)(student, teacher).item()
        want = 3 * slow(student, teacher, gamma, weighted)
        assert got == pytest.approx(want, rel=1e-10 if dtype == torch.float64 else 1e-4)


def test_an_unsure_teacher_weighs_more() -> None:
    student, teacher = torch.randn(2, 1, 100).double()
    loss, plain = TTMLoss(0.1, weighted=True), TTMLoss(0.1)
    unsure = torch.zeros(1, 100).double()
    assert loss(student, unsure).item() == pytest.approx(100**0.9 * plain(student, unsure).item())
    assert loss(student, teacher) < 100**0.9 * plain(student, teacher)


@pytest.mark.parametrize('weighted', [False, True])
def test_far_logits_give_finite_numbers(weighted: bool) -> None:
    student = torch.tensor([[0.0, 500.0, -500.0]], requires_grad=True)
    value = TTMLoss(0.1, weighted)(student, torch.tensor([[900.0, -900.0, 0.0]]))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    'setting',
    [dict(gamma=0), dict(gamma=-0.1), dict(gamma=math.inf), dict(weighted=1), dict(loss_weight=None)],
    ids=str,
)
def test_bad_settings_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'TTMLoss: {name}={value!r}'):
        TTMLoss(**setting)


@pytest.mark.parametrize(
    ('method', 'pair', 'settings'),
    [
        ('ttm', 'res32x4_res8x4_cifar100', (0.1, False, 100.0)),
        ('ttm', 'res32x4_shufflenetv2_cifar100', (0.4, False, 40.0)),
        ('wttm', 'res32x4_res8x4_cifar100', (0.1, True, 3.0)),
        ('wttm', 'res56_res20_cifar100', (0.3, True, 1.5)),
        ('wttm', 'resnet34_resnet18_in1k', (0.8, True, 1.6)),
    ],
)
def test_each_pair_has_the_settings_of_the_authors(method: str, pair: str, settings: tuple) -> None:
    loss = recipes.compose_distiller([method], pair=pair)['losses'][method].loss
    assert (loss.gamma, loss.get('weighted', False), loss.loss_weight) == settings
