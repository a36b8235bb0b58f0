"""RLD against golden numbers of its authors' code, a slow rewrite, and DKD."""

import pytest
import torch
from helpers import shipped
from logit_cases import DTYPES, Case, cases, kl, on_pair, random_logits, rows, softmax, split
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.dkd_loss import DecoupledKDLoss
from icd_mmrazor.models.losses.functional import standardized
from icd_mmrazor.models.losses.rld_loss import RLDLoss

CASES = pytest.mark.parametrize('name', cases('rld', 'RLD'))


def of_case(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    logits = case.student, case.teacher
    return *(map(standardized, logits) if case['standardised'] else logits), case.labels


def test_there_are_golden_cases() -> None:
    assert len(cases('rld', 'RLD')) == 10
    assert [name for name in cases('rld', 'RLD') if Case('rld', name, 'RLD')['standardised']] == ['standardised']


@DTYPES
@CASES
def test_golden_numbers(name: str, dtype: torch.dtype) -> None:
    case = Case('rld', name, 'RLD', dtype)
    inputs, temperatures = of_case(case), (case['tau'], case['alpha_tau'])
    case.check(RLDLoss(*temperatures, case['alpha'], case['beta'])(*inputs))
    case.check(RLDLoss(*temperatures, 1.0, 0.0)(*inputs), 'scd')
    case.check(RLDLoss(*temperatures, 0.0, 1.0)(*inputs), 'mcd')


@CASES
def test_the_published_objective(name: str) -> None:
    case = Case('rld', name, 'RLD')
    case.check_total(RLDLoss(case['tau'], case['alpha_tau'], case['alpha'], case['beta'])(*of_case(case)))


def slow(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, tau: float, confidence_tau: float
) -> float:
    values = []
    for s, t, label in zip(*rows(student, teacher, labels), strict=True):
        predicted = t.index(max(t))
        confidence = kl(split(softmax(t, confidence_tau), predicted), split(softmax(s, confidence_tau), label))
        values.append(alpha * confidence_tau**2 * confidence)
        below = [i for i in range(len(t)) if t[i] < t[label]]
        if below:
            s_below, t_below = (softmax([row[i] for i in below], tau) for row in (s, t))
            values[-1] += beta * tau**2 * kl(t_below, s_below)
    return sum(values) / len(values)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [(1, 2), (2, 3), (7, 5), (4, 30)], ids=str)
def test_equals_a_slow_rewrite(shape: tuple[int, int], dtype: torch.dtype) -> None:
    inputs = random_logits(dtype, *shape)
    want = 3 * slow(*inputs, 0.5, 4.0, 2.0, 1.5)
    got = RLDLoss(2.0, 1.5, 0.5, 4.0, loss_weight=3.0)(*inputs).item()
    assert got == pytest.approx(want, rel=1e-9 if dtype == torch.float64 else 1e-4)


def test_it_is_dkd_where_the_teacher_is_right() -> None:
    student, teacher, _ = random_logits(torch.float64, 6, 5)
    inputs = student, teacher, teacher.argmax(1)
    got, want = RLDLoss(3.0, 3.0)(*inputs).item(), DecoupledKDLoss(3.0)(*inputs).item()
    assert got == pytest.approx(want, rel=1e-12)
    # and elsewhere it is not
    inputs = student, teacher, teacher.argmin(1)
    assert RLDLoss(3.0, 3.0)(*inputs).item() != pytest.approx(DecoupledKDLoss(3.0)(*inputs).item(), rel=0.1)


def test_an_image_with_no_class_below_its_label_adds_no_correlation() -> None:
    # the lowest logit; level with the lowest one; one class is left
    teacher = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 0.0, 2.0]])
    student = torch.randn(3, 3, requires_grad=True)
    value = RLDLoss(alpha=0.0)(student, teacher, torch.zeros(3, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize('gap', [104.0, 1000.0, 1e6])
def test_a_confident_student_has_a_finite_loss(gap: float) -> None:
    student = torch.tensor([[gap, 0.0, 1.0], [0.0, 2.0, -gap]], requires_grad=True)
    value = RLDLoss(1.0)(student, torch.randn(2, 3), torch.tensor([0, 2]))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(tau=0), 'tau=0'),
        (dict(confidence_tau=None), 'confidence_tau=None'),
        (dict(alpha=-1), 'alpha=-1'),
        (dict(beta='8'), "beta='8'"),
        (dict(loss_weight='1'), "loss_weight='1'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'RLDLoss: {message}'):
        RLDLoss(**settings)


def test_the_settings_of_the_authors() -> None:
    loss = shipped('_base_/methods/rld.py').rld.losses.rld.loss
    assert (loss.tau, loss.confidence_tau, loss.alpha, loss.beta) == (4.0, 1.0, 1.0, 8.0)
    entry = on_pair('rld', 'resnet34_resnet18_in1k').losses.rld
    assert (entry.loss.tau, entry.loss.confidence_tau, entry.loss.alpha, entry.loss.beta) == (1.0, 1.0, 1.0, 0.5)
    assert entry.weight_schedule is None
    assert recipes.needs_of('rld') == {'logits', 'labels'}
