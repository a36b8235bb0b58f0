"""ITRD against golden numbers of its release, a slow rewrite, and what must not end a run."""

import math

import pytest
import torch
from golden_cases import GoldenCase, case_names
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.itrd_loss import ITRDLoss, correlation_loss, mutual_loss

# the authors' names of the settings and parameters
SETTINGS = dict(alpha='alpha', lambda_corr='correlation_weight', lambda_mutual='mutual_weight')
PARAMETERS = {f'embed.linear.{name}': f'embed.{name}' for name in ('weight', 'bias')}
# the pairs whose networks are of two families
MIXED_FAMILIES = (
    'vgg13_mobilenetv2',
    'res50_mobilenetv2',
    'res50_vgg8',
    'res32x4_shufflenetv1',
    'res32x4_shufflenetv2',
    'wrn40-2_shufflenetv1',
)


def built(student: Tensor, teacher: Tensor, **settings: float) -> ITRDLoss:
    return ITRDLoss(student.shape[1:], teacher.shape[1:], **settings).to(student.dtype)


@pytest.mark.parametrize('name', case_names('itrd', 'itrd'))
def test_golden_numbers(name: str) -> None:
    case = GoldenCase('itrd', name, 'itrd')
    student, teacher = case.inputs['student'], case.inputs['teacher']
    loss = built(student, teacher, **{SETTINGS[name]: value for name, value in case.settings.items()})
    case.load('param', loss, PARAMETERS)
    parameters = dict(loss.named_parameters())
    case.check(loss(student, teacher), {theirs: parameters[ours] for theirs, ours in PARAMETERS.items()})

    projected = loss.embed(student)
    parts = case.of('part')
    assert correlation_loss(projected, teacher, loss.alpha).item() == pytest.approx(
        parts['correlation'].item(), rel=1e-9
    )
    compared = student if student.shape[1] == teacher.shape[1] else projected
    assert mutual_loss(compared, teacher).item() == pytest.approx(parts['mutual'].item(), rel=1e-9)


def columns(rows: list[list[float]]) -> list[list[float]]:
    """Return the standardised columns of a matrix; a constant one is 0."""
    standardised = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / (len(column) - 1))
        standardised.append([(x - mean) / deviation if deviation > 1e-9 else 0.0 for x in column])
    return standardised


def cosines(rows: list[list[float]]) -> list[list[float]]:
    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    return [[cosine(a, b) for b in rows] for a in rows]


def slow(projected: list, compared: list, teacher: list, alpha: float, weights: tuple[float, float]) -> float:
    images = len(teacher)
    total = 0.0
    for s, t in zip(columns(projected), columns(teacher), strict=True):
        total += abs(sum(x * y for x, y in zip(s, t, strict=True)) / images - 1) ** (2 * alpha)
    of_student, of_teacher = cosines(compared), cosines(teacher)
    pairs = [(i, j) for i in range(images) for j in range(images)]
    alone = sum((of_student[i][j] / images) ** 2 for i, j in pairs)
    both = sum((of_student[i][j] * of_teacher[i][j] / images) ** 2 for i, j in pairs)
    return weights[0] * math.log2(total) + weights[1] * (alone - both)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('shape', [(2, 3, 5), (7, 6, 4), (9, 5, 5)], ids=str)
def test_equals_a_slow_rewrite(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    images, s_width, t_width = shape
    student, teacher = 3 * torch.randn(images, s_width, dtype=dtype), torch.randn(images, t_width, dtype=dtype) + 1
    loss = built(student, teacher, alpha=1.3, correlation_weight=0.7, mutual_weight=40.0, loss_weight=0.5)
    projected = loss.embed(student).tolist()
    compared = student.tolist() if s_width == t_width else projected
    want = slow(projected, compared, teacher.tolist(), 1.3, (0.7, 40.0))
    rel = 1e-10 if dtype == torch.float64 else 1e-4
    assert loss(student, teacher).item() == pytest.approx(0.5 * want, rel=rel)


@pytest.mark.parametrize('value', [0.0, 0.1, 1234.567])
def test_a_dead_unit_counts_as_uncorrelated(value: float) -> None:
    """Also if its mean is not exactly its value."""
    for dtype in (torch.float64, torch.float32):
        student, teacher = torch.randn(7, 4, dtype=dtype), torch.randn(7, 4, dtype=dtype)
        for changed in (student, teacher):
            features = [each.clone() for each in (student, teacher)]
            features[0 if changed is student else 1][:, 2] = value
            features[0].requires_grad_()
            got = correlation_loss(*features, alpha=1.5)
            rows = [columns(each.tolist()) for each in features]
            sums = [sum(x * y for x, y in zip(*pair, strict=True)) / 7 for pair in zip(*rows, strict=True)]
            assert sums[2] == 0
            want = math.log2(sum(abs(c - 1) ** 3 for c in sums))
            assert got.item() == pytest.approx(want, rel=1e-4)
            (gradient,) = torch.autograd.grad(got, features[0])
            assert gradient[:, 2].tolist() == [0.0] * 7
            assert 0 < gradient.abs().max() < 10


def test_the_correlation_has_its_bound() -> None:
    """Equal features are the best there are, and finite."""
    feature = torch.randn(64, 8).double().requires_grad_()
    value = correlation_loss(feature, feature.detach(), 1.01)
    assert value.item() == pytest.approx(3 - 2 * 1.01 * 6, rel=1e-9)
    assert torch.autograd.grad(value, feature)[0].isfinite().all()


def test_the_settings_are_those_of_the_authors_for_each_pair() -> None:
    for pair in [name for name in recipes.pair_names() if name.endswith('_cifar100')]:
        loss = recipes.compose_distiller(['itrd'], pair=pair)['losses']['itrd']['loss']
        mixed = pair.removesuffix('_cifar100') in MIXED_FAMILIES
        assert loss.get('alpha') == (1.5 if mixed else None)
    loss = ITRDLoss((3,), (4,))
    assert [loss.alpha, loss.correlation_weight, loss.mutual_weight] == [1.01, 2.0, 1.0]


@pytest.mark.parametrize(
    'setting',
    [
        dict(student_shape=(3, 4, 4)),
        dict(teacher_shape=3),
        dict(alpha=0),
        dict(correlation_weight=-1.0),
        dict(mutual_weight=math.inf),
        dict(loss_weight=None),
    ],
    ids=str,
)
def test_bad_settings_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError) as error:
        ITRDLoss(**{'student_shape': (3,), 'teacher_shape': (4,), **setting})
    assert f'ITRDLoss: {name}={value!r}' in str(error.value)


@pytest.mark.parametrize(
    ('shapes', 'message'),
    [
        (((5, 4), (5, 4)), r'student_shape=\(3,\).*\(5, 4\).*student_shape to \(4,\)'),
        (((5, 3), (5, 7)), r'teacher_shape=\(4,\).*\(5, 7\).*teacher_shape to \(7,\)'),
        (((5, 3), (6, 4)), 'batch sizes'),
        (((5, 3, 2, 2), (5, 4)), 'pooled'),
    ],
    ids=str,
)
def test_features_of_another_shape_are_refused(shapes: tuple, message: str) -> None:
    with pytest.raises(SettingError, match=f'(?s){message}'):
        ITRDLoss((3,), (4,))(*(torch.randn(shape) for shape in shapes))
