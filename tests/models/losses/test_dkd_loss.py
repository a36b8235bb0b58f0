"""DKD against golden numbers of its authors' code, a slow rewrite, and mmrazor's loss."""

import math
import warnings

import pytest
import torch
from helpers import shipped
from logit_cases import DTYPES, Case, cases, golden, kl, on_pair, random_logits, rows, softmax, split
from mmrazor.models.losses import DKDLoss
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.weight_schedule import WeightSchedule
from icd_mmrazor.models.losses.dkd_loss import DecoupledKDLoss

CASES = pytest.mark.parametrize('name', cases('dkd', 'DKD'))


def test_there_are_golden_cases() -> None:
    assert len(cases('dkd', 'DKD')) == 6


@DTYPES
@CASES
def test_golden_numbers(name: str, dtype: torch.dtype) -> None:
    case = Case('dkd', name, 'DKD', dtype)
    inputs = case.student, case.teacher, case.labels
    case.check(DecoupledKDLoss(case['tau'], case['alpha'], case['beta'])(*inputs))
    case.check(DecoupledKDLoss(case['tau'], 1.0, 0.0)(*inputs), 'tckd')
    case.check(DecoupledKDLoss(case['tau'], 0.0, 1.0)(*inputs), 'nckd')


@CASES
def test_the_published_objective(name: str) -> None:
    case = Case('dkd', name, 'DKD')
    case.check_total(DecoupledKDLoss(case['tau'], case['alpha'], case['beta'])(case.student, case.teacher, case.labels))


def slow(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, tau: float) -> float:
    values = []
    for s, t, label in zip(*rows(student, teacher, labels), strict=True):
        target = kl(split(softmax(t, tau), label), split(softmax(s, tau), label))
        s_others, t_others = (row[:label] + row[label + 1 :] for row in (s, t))
        others = kl(softmax(t_others, tau), softmax(s_others, tau))
        values.append(alpha * target + beta * others)
    return tau**2 * sum(values) / len(values)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [(1, 2), (2, 3), (7, 5), (4, 30)], ids=str)
def test_equals_a_slow_rewrite(shape: tuple[int, int], dtype: torch.dtype) -> None:
    inputs = random_logits(dtype, *shape)
    want = 3 * slow(*inputs, 0.5, 4.0, 2.0)
    got = DecoupledKDLoss(2.0, 0.5, 4.0, loss_weight=3.0)(*inputs).item()
    assert got == pytest.approx(want, rel=1e-9 if dtype == torch.float64 else 1e-4)


def test_knowledge_distillation_is_dkd_with_a_weight_for_each_image() -> None:
    student, teacher, labels = random_logits(torch.float64, 1, 6)
    of_others = 1 - (teacher / 4).softmax(1)[0, labels].item()
    want = 16 * kl(*(softmax(each[0].tolist(), 4.0) for each in (teacher, student)))
    assert DecoupledKDLoss(4.0, 1.0, of_others)(student, teacher, labels).item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize('gap', [50.0, 104.0, 1000.0, 1e6])
def test_a_confident_student_has_a_finite_loss_where_mmrazors_is_infinite(gap: float) -> None:
    """At temperature 1 in float32, as on ImageNet."""
    student, teacher = torch.tensor([[gap, 0.0, 1.0], [0.0, 2.0, -gap]]), torch.randn(2, 3)
    student.requires_grad_()
    labels, found = torch.tensor([0, 2]), []
    for dtype in (torch.float32, torch.float64):
        value = DecoupledKDLoss(1.0)(student.to(dtype), teacher.to(dtype), labels)
        (gradient,) = torch.autograd.grad(value, student)
        assert gradient.isfinite().all()
        found.append(value.item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    if gap > 104:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            assert not DKDLoss(tau=1.0)(student, teacher, labels).isfinite()
        # users would see it in the log
        assert any('size_average' in str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(tau=0), 'tau=0'),
        (dict(alpha=-1), 'alpha=-1'),
        (dict(beta='8'), "beta='8'"),
        (dict(loss_weight=math.nan), 'loss_weight=nan'),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'DecoupledKDLoss: {message}'):
        DecoupledKDLoss(**settings)


@pytest.mark.parametrize(
    ('shapes', 'labels'),
    [
        (((3, 4), (3, 5)), [0, 1, 2]),
        (((3, 4), (2, 4)), [0, 1, 2]),
        (((3, 4, 2, 2), (3, 4, 2, 2)), [0, 1, 2]),
        (((3, 4), (3, 4)), [0, 1]),
        (((3, 4), (3, 4)), [0.0, 1.0, 2.0]),
        (((3, 4), (3, 4)), [[1, 0, 0, 0]] * 3),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(shapes: tuple, labels: list) -> None:
    with pytest.raises(SettingError, match='DecoupledKDLoss'):
        DecoupledKDLoss()(*(torch.randn(shape) for shape in shapes), torch.tensor(labels))


def test_the_warm_up_of_the_authors() -> None:
    numbers = golden('dkd')
    for method in ('dkd', 'dkd_ls', 'rld'):
        entry = shipped(f'_base_/methods/{method}.py')[method].losses[method]
        schedule = WeightSchedule.of(method, entry.weight_schedule.to_dict())
        # epochs of the authors start at 1
        got = [schedule.factor(int(epoch) - 1) for epoch in numbers['schedule/epoch']]
        assert got == pytest.approx(numbers['schedule/weight'].tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ('pair', 'settings', 'warms_up'),
    [
        ('res32x4_res8x4_cifar100', (4.0, 1.0, 8.0), True),
        ('res50_mobilenetv2_cifar100', (4.0, 1.0, 8.0), True),
        ('wrn40-2_wrn16-2_cifar10', (4.0, 1.0, 6.0), True),
        ('vgg13_mobilenetv2_cifar100', (4.0, 1.0, 6.0), True),
        ('res56_res20_cifar100', (4.0, 1.0, 2.0), True),
        ('resnet34_resnet18_in1k', (1.0, 1.0, 0.5), False),
    ],
)
def test_the_settings_of_the_authors(pair: str, settings: tuple, warms_up: bool) -> None:
    entry = on_pair('dkd', pair).losses.dkd
    assert (entry.loss.tau, entry.loss.alpha, entry.loss.beta) == settings
    assert bool(entry.get('weight_schedule')) == warms_up
    assert recipes.needs_of('dkd') == {'logits', 'labels'}
