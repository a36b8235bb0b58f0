"""R2KD against golden numbers of its authors' code and slow rewrites, and what follows from its formula."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import shipped
from logit_cases import DTYPES, Case, golden, on_pair, random_logits
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.term_losses import logged_terms
from icd_mmrazor.models.losses import CorrelationDistanceLoss, PearsonCorrelationLoss

NAMES = sorted(name.split('/')[0] for name in golden('r2kd') if name.endswith('/R2KD/value'))
CASES = pytest.mark.parametrize('name', NAMES)


def mixed(name: str, part: str = '', dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the logits of a case's teacher and pruned teacher, mixed."""
    numbers = golden('r2kd')
    mix = float(numbers[f'{name}/R2KD/mix'])
    teacher, pruned = (numbers[f'{name}/{network}{part}'] for network in ('teacher', 'pruned'))
    return torch.from_numpy(mix * teacher + (1 - mix) * pruned).to(dtype)


def test_there_are_golden_cases() -> None:
    assert NAMES == ['equal', 'neither', 'one_image', 'other', 'peaked', 'tiny']


@DTYPES
@CASES
def test_golden_numbers(name: str, dtype: torch.dtype) -> None:
    case = Case('r2kd', name, 'R2KD', dtype)
    loss = CorrelationDistanceLoss(case['tau'])
    value = loss(case.student, mixed(name, dtype=dtype))
    if name == 'equal' and dtype == torch.float32:
        # nothing but rounding: the value is that of 1e-8
        assert value.item() == pytest.approx(case['value'], abs=1e-4)
    else:
        case.check(value, 'value')
    # in float32, the order of logits that are almost equal may be another one
    assert loss.terms['rank'].item() == pytest.approx(case['rank'], abs=1e-9 if dtype == torch.float64 else 1e-6)


@CASES
def test_the_published_objective(name: str) -> None:
    """Of both batches; the rank distance adds a constant."""
    case = Case('r2kd', name, 'R2KD')
    augmented = torch.from_numpy(golden('r2kd')[f'{name}/student_aug']).requires_grad_()
    loss = CorrelationDistanceLoss(case['tau'], loss_weight=case['value_weight'])
    total = case['ce_weight'] * F.cross_entropy(case.student, case.labels)
    for student, teacher in ((case.student, mixed(name)), (augmented, mixed(name, '_aug'))):
        total = total + loss(student, teacher) + case['rank_weight'] * loss.terms['rank']
        if student is case.student:
            case.check(total, 'total_clean')
    case.check(total, 'total')
    (gradient,) = torch.autograd.grad(total, augmented)
    want = torch.from_numpy(golden('r2kd')[f'{name}/R2KD/total_grad_student_aug'])
    torch.testing.assert_close(gradient, want, rtol=1e-9, atol=1e-12)


def softmax(z: np.ndarray, t: float) -> np.ndarray:
    e = np.exp((z - z.max(1, keepdims=True)) / t)
    return e / e.sum(1, keepdims=True)


def slow_value(student: np.ndarray, teacher: np.ndarray, tau: float) -> float:
    p, q = softmax(student, tau), softmax(teacher, tau)
    total = 0.0
    for rows_p, rows_q in ((p, q), (p.T, q.T)):
        cosines = [
            abs(x @ y) / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-8) for x, y in zip(rows_p, rows_q, strict=True)
        ]
        total += 1 - np.mean(cosines)
    return tau * tau * total


def slow_rank(student: np.ndarray, teacher: np.ndarray) -> float:
    """Compute the textbook's Spearman, without ties."""
    n, correlations = student.shape[1], []
    for x, y in zip(student, teacher, strict=True):
        d = np.argsort(np.argsort(x)) - np.argsort(np.argsort(y))
        correlations.append(1 - 6 * (d**2).sum() / (n * (n * n - 1)))
    return 1 - np.mean(correlations)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [(1, 4), (2, 2), (7, 5), (4, 30)], ids=str)
def test_equals_slow_rewrites(shape: tuple[int, int], dtype: torch.dtype) -> None:
    student, teacher, _ = random_logits(dtype, *shape)
    loss = CorrelationDistanceLoss(tau=2.0, loss_weight=3.0)
    got = loss(student, teacher).item()
    arrays = [logits.double().numpy() for logits in (student, teacher)]
    tolerance = dict(rel=1e-9) if dtype == torch.float64 else dict(rel=1e-4, abs=1e-4)
    assert got == pytest.approx(3 * slow_value(*arrays, 2.0), **tolerance)
    if dtype != torch.bfloat16:  # which has ties
        assert loss.terms['rank'].item() == pytest.approx(slow_rank(*arrays), abs=2e-6)


@pytest.mark.parametrize('images', [1, 6])
def test_equal_logits_are_no_distance_apart(images: int) -> None:
    logits = torch.randn(images, 8, dtype=torch.float64)
    shifted = logits + torch.randn(images, 1, dtype=torch.float64)
    other = torch.randn(images, 8, dtype=torch.float64)
    loss = CorrelationDistanceLoss()
    assert 0 <= loss(logits, logits).item() < 1e-4
    assert loss.terms['rank'].item() == pytest.approx(0, abs=2e-6)
    # a constant in the logits of an image does not count
    assert loss(shifted, other).item() == pytest.approx(loss(logits, other).item(), rel=1e-9)


def test_one_image_has_no_columns_to_compare() -> None:
    student, teacher = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64)
    cosine = F.cosine_similarity((student / 4).softmax(1), (teacher / 4).softmax(1)).item()
    assert CorrelationDistanceLoss()(student, teacher).item() == pytest.approx(16 * (1 - cosine), abs=1e-4)


def test_the_rank_is_logged_and_teaches_nothing() -> None:
    logits = torch.randn(5, 9, requires_grad=True)
    loss = CorrelationDistanceLoss()
    loss(logits, -logits.detach())
    terms = logged_terms({'loss_r2kd': loss})
    assert [*terms] == ['r2kd_rank']
    assert terms['r2kd_rank'].item() == pytest.approx(2.0, abs=1e-5)
    assert not terms['r2kd_rank'].requires_grad


def test_it_is_not_centred() -> None:
    student, teacher, _ = random_logits(torch.float64, 6, 10)
    assert CorrelationDistanceLoss()(student, teacher) < PearsonCorrelationLoss()(student, teacher)


@pytest.mark.parametrize(
    ('settings', 'message'), [(dict(tau=0), 'tau=0'), (dict(loss_weight=math.nan), 'loss_weight=nan')], ids=str
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'CorrelationDistanceLoss: {message}'):
        CorrelationDistanceLoss(**settings)


@pytest.mark.parametrize('shapes', [((3, 4), (3, 5)), ((3, 4), (2, 4)), ((3, 4, 2, 2), (3, 4, 2, 2)), ((0, 4), (0, 4))])
def test_logits_that_cannot_be_compared_are_refused(shapes: tuple) -> None:
    with pytest.raises(SettingError, match='CorrelationDistanceLoss'):
        CorrelationDistanceLoss()(*(torch.randn(shape) for shape in shapes))


def test_the_settings_of_the_authors() -> None:
    numbers = {name: golden('r2kd')[f'tiny/R2KD/{name}'].item() for name in ('tau', 'value_weight', 'mix')}
    entry = shipped('_base_/methods/r2kd.py').r2kd.losses.r2kd
    assert (entry.loss.tau, entry.loss.loss_weight) == (numbers['tau'], numbers['value_weight'])
    model = recipes.compose('res56_res20_cifar100', ['r2kd']).model
    assert model.type == 'AugmentedDistill'
    assert model.pruned_teacher.amount == golden('r2kd')['prune/rate'].item()
    assert model.pruned_teacher.weight == pytest.approx(1 - numbers['mix'])
    assert on_pair('r2kd', 'res56_res20_cifar100').get('student_loss_weight', 1.0) == 1.0
    assert recipes.needs_of('r2kd') == {'logits', 'unmixed'}
