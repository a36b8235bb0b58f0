"""HKD's divergence against golden numbers of its authors' code and a slow rewrite of its formula."""

import math

import numpy as np
import pytest
import torch
from helpers import DATA, shipped
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.weight_schedule import WeightSchedule
from icd_mmrazor.models.losses import InformationFlowLoss

VECTORS = np.load(DATA / 'hkd_loss_vectors.npz')
LAYERS = np.load(DATA / 'hkd_layers.npz')
CASES = ['', '_signed', '_large', '_two', '_one', '_same', '_duplicate']


def case(name: str) -> tuple[Tensor, Tensor]:
    student, teacher = (torch.from_numpy(VECTORS[f'combined{name}.{network}']) for network in ('student', 'teacher'))
    return student.requires_grad_(), teacher


def divergence(student: Tensor, teacher: Tensor) -> float:
    """Sum the divergences of all pairs of images and of both kernels, in loops."""

    def probabilities(x: list[list[float]], kernel: str) -> list[list[float]]:
        rows = []
        for a in x:
            row = []
            for b in x:
                if kernel == 'cosine':
                    lengths = (math.sqrt(sum(v * v for v in each)) + 1e-6 for each in (a, b))
                    cosine = sum(v * w for v, w in zip(a, b, strict=True)) / math.prod(lengths)
                    row.append((cosine + 1) / 2)
                else:
                    squared = sum((v - w) ** 2 for v, w in zip(a, b, strict=True))
                    row.append(1 / (1 + math.sqrt(squared + 1e-6)))
            rows.append([value / sum(row) for value in row])
        return rows

    total = 0.0
    for kernel in ('cosine', 'student_t'):
        p, q = (probabilities(x.flatten(1).tolist(), kernel) for x in (teacher, student))
        total += sum(
            (p[i][j] - q[i][j]) * (math.log(p[i][j]) - math.log(q[i][j])) for i in range(len(p)) for j in range(len(p))
        )
    return total


@pytest.mark.parametrize('name', CASES)
def test_golden_numbers(name: str) -> None:
    student, teacher = case(name)
    loss = InformationFlowLoss()(student, teacher)
    loss.backward()
    gradient = torch.from_numpy(VECTORS[f'combined{name}.grad_student'])
    assert loss.item() == pytest.approx(VECTORS[f'combined{name}.loss'].item(), rel=1e-8, abs=1e-15)
    torch.testing.assert_close(student.grad, gradient, rtol=1e-8, atol=1e-8 * gradient.abs().max().item() + 1e-15)


def test_a_feature_that_is_zero() -> None:
    """The release's gradient is NaN."""
    student, teacher = case('_zero_row')
    assert (student == 0).all(dim=1).any()
    loss = InformationFlowLoss()(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(VECTORS['combined_zero_row.loss'].item(), rel=1e-8)
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e-2
    # nothing but zeros, as at the start of a training whose units are dead
    dead = torch.zeros(4, 8, requires_grad=True)
    InformationFlowLoss()(dead, teacher[:4].float()).backward()
    assert (dead.grad == 0).all()


@pytest.mark.parametrize('epoch', [0, 1, 13, 49])
def test_golden_numbers_of_several_layers(epoch: int) -> None:
    """Their weights are those of the method's config."""
    entries = shipped('_base_/methods/hkd.py').hkd.losses
    schedule = WeightSchedule.of('', entries.flow.weight_schedule)
    assert entries.last.get('weight_schedule') is None
    students = [torch.from_numpy(LAYERS[f'student{i}']).double().requires_grad_() for i in range(4)]
    parts = [InformationFlowLoss()(students[i], torch.from_numpy(LAYERS[f'teacher{i}']).double()) for i in range(4)]
    weights = [schedule.factor(epoch)] * 3 + [1]
    total = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    total.backward()
    golden = {name: LAYERS[f'epoch{epoch}.{name}'] for name in ('parts', 'total', 'grad_norms')}
    # from the last layer to the first
    assert [part.item() for part in parts[::-1]] == pytest.approx(golden['parts'].tolist(), rel=1e-8)
    assert total.item() == pytest.approx(golden['total'].item(), rel=1e-8)
    norms = [student.grad.norm().item() for student in students[::-1]]
    assert norms == pytest.approx(golden['grad_norms'].tolist(), rel=1e-8)


def test_golden_schedule() -> None:
    schedule = WeightSchedule.of('', shipped('_base_/methods/hkd.py').hkd.losses.flow.weight_schedule)
    assert [schedule.factor(epoch) for epoch in range(50)] == pytest.approx(LAYERS['schedule'].tolist(), rel=1e-12)


@pytest.mark.parametrize('shapes', [((5, 3), (5, 7)), ((4, 2, 3, 3), (4, 5, 2, 2)), ((6, 4), (6, 3, 2))])
def test_against_a_rewrite_in_both_reductions(shapes: tuple) -> None:
    student, teacher = (torch.randn(shape, dtype=torch.double) for shape in shapes)
    expected, number = divergence(student, teacher), len(student)
    assert InformationFlowLoss()(student, teacher).item() == pytest.approx(expected / number**2, rel=1e-9)
    summed = InformationFlowLoss(reduction='batchmean', loss_weight=3.0)
    assert summed(student, teacher).item() == pytest.approx(3 * expected / number, rel=1e-9)


def test_gradient() -> None:
    student, teacher = torch.randn(4, 3, dtype=torch.double), torch.randn(4, 5, dtype=torch.double)
    assert torch.autograd.gradcheck(InformationFlowLoss(), (student.requires_grad_(), teacher))


def test_what_it_does_not_depend_on() -> None:
    student, teacher = torch.randn(8, 6, dtype=torch.double), torch.randn(8, 9, dtype=torch.double)
    compare = InformationFlowLoss()
    expected = compare(student, teacher).item()
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.double)).Q
    wider = torch.cat([student, torch.zeros(8, 5, dtype=torch.double)], dim=1)
    order = torch.randperm(8)
    for other in (
        (student @ rotation, teacher),
        (wider, teacher),
        (teacher, student),
        (student[order], teacher[order]),
    ):
        assert compare(*other).item() == pytest.approx(expected, rel=1e-9)
    assert expected > 1e-4
    assert compare(student, student @ rotation).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize('offset', [0.0, 100.0])
def test_single_precision(offset: float) -> None:
    """Wide features far from the origin, as pooled outputs of a ReLU are; with |a|^2 + |b|^2 - 2ab it is 10 % off."""
    student, teacher = (offset + torch.randn(16, width).relu() for width in (1800, 3600))
    single = [each.clone().requires_grad_() for each in (student, teacher)]
    double = [each.double().requires_grad_() for each in (student, teacher)]
    losses = [InformationFlowLoss()(*each) for each in (single, double)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=2e-4)
    torch.testing.assert_close(
        single[0].grad.double(), double[0].grad, rtol=1e-3, atol=2e-3 * double[0].grad.abs().max()
    )


def test_half_precision_and_opposite_features() -> None:
    """Sums of squares exceed the range of half precision, and the cosine of opposite features is rounded to -1."""
    feature = 200 * torch.randn(8, 500)
    feature[1] = -feature[0]
    feature.requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = InformationFlowLoss()(feature, torch.randn(8, 100))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert feature.grad.isfinite().all()
    assert InformationFlowLoss()(torch.full((2, 3), math.nan), torch.randn(2, 3)).isnan()


@pytest.mark.parametrize('reduction', ['sum', None, 1])
def test_settings_out_of_range(reduction: object) -> None:
    with pytest.raises(SettingError, match=r'InformationFlowLoss: reduction='):
        InformationFlowLoss(reduction=reduction)
