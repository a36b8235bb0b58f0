"""OFA's loss of logits against golden numbers of the published code and a slow rewrite."""

import math
from collections.abc import Callable

import pytest
import torch
from logit_cases import TOLERANCES, Golden, cases, logits, softmax
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.ofa_loss import OFALoss


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('case', cases('ofa', 'OFA'))
def test_golden_numbers(case: str, dtype: torch.dtype) -> None:
    golden = Golden('ofa', case, 'OFA', dtype)
    loss = OFALoss(**golden.settings(eps='eps', tau='tau'))
    golden.check(loss(golden.student, golden.teacher, golden.labels))


def slow(student: Tensor, teacher: Tensor, labels: list[int], eps: float, tau: float) -> float:
    total = 0.0
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels, strict=True):
        q, p = (softmax([x / tau for x in row]) for row in (s, t))
        for c, (of_student, of_teacher) in enumerate(zip(q, p, strict=True)):
            target = (of_teacher + 1) ** eps - 1 if c == label else of_teacher**eps
            total -= target * math.log(of_student)
    return total / len(student)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(('eps', 'tau'), [(1.0, 1.0), (1.5, 1.0), (0.7, 4.0), (2.0, 0.5)])
def test_equals_a_slow_rewrite(eps: float, tau: float, dtype: torch.dtype) -> None:
    for images, classes in ((1, 2), (5, 7), (3, 100)):
        student, teacher, labels = logits(dtype, images, classes)
        got = OFALoss(eps, tau, loss_weight=3.0)(student, teacher, torch.tensor(labels)).item()
        want = 3 * slow(student, teacher, labels, eps, tau)
        assert got == pytest.approx(want, rel=1e-10 if dtype == torch.float64 else 1e-4)


def test_only_a_power_other_than_1_reads_the_label() -> None:
    student, teacher, _ = logits(torch.float64)
    labels = [torch.zeros(5).long(), torch.arange(5)]
    for eps, differ in ((1.0, False), (1.5, True)):
        first, second = (OFALoss(eps)(student, teacher, each).item() for each in labels)
        assert (abs(first - second) > 1e-3) == differ
    plain = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    assert OFALoss()(student, teacher, labels[0]).item() == pytest.approx(plain.item(), rel=1e-12)


def test_a_gap_that_overflows_in_the_release_is_finite() -> None:
    """Of 200, where a softmax in float32 is 0."""
    student = torch.tensor([[0.0, 200.0]], requires_grad=True)
    value = OFALoss(1.5)(student, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    value.backward()
    p = 1 / (1 + math.exp(-1))
    assert value.item() == pytest.approx(200 * ((1 + p) ** 1.5 - 1), rel=1e-5)
    assert student.grad.isfinite().all()


def test_a_mixed_image_counts_as_one_of_its_largest_class(network: Callable) -> None:
    losses = dict(ofa=dict(loss=dict(type='OFALoss', eps=1.5), features='logits'))
    model = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='FrozenTeacherDistill',
            architecture=network('res8'),
            teacher=network('res14'),
            random_teacher=True,
            calculate_student_loss=False,
            distiller=dict(type='FeatureDistiller', losses=losses),
        )
    ).train()
    scores = torch.full((2, 10), 0.05)
    scores[0, 3] = scores[1, 7] = 0.55
    mixed = [DataSample().set_gt_label(0).set_gt_score(score) for score in scores]
    images, values = torch.randn(2, 3, 32, 32), []
    for samples in (mixed, [DataSample().set_gt_label(i) for i in (3, 7)], [DataSample().set_gt_label(0)] * 2):
        values.append(model.loss(images, samples)['distill.loss_ofa'].item())
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize('labels', [torch.zeros(4).long(), torch.zeros(5, 2).long(), torch.zeros(5)], ids=str)
def test_labels_that_are_not_one_for_each_image_are_refused(labels: Tensor) -> None:
    student, teacher, _ = logits(torch.float32)
    with pytest.raises(SettingError, match='OFALoss: gt_labels'):
        OFALoss()(student, teacher, labels)


@pytest.mark.parametrize('setting', [dict(eps=0), dict(eps='1'), dict(tau=-1), dict(loss_weight=math.nan)], ids=str)
def test_bad_settings_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'OFALoss: {name}={value!r}'):
        OFALoss(**setting)


def test_needs_labels_or_the_scores_of_mixed_images() -> None:
    assert recipes.needs_of('ofa') == {'logits', 'labels', 'scores'}
