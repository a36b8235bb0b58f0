"""Knowledge distillation with a sigmoid for each class."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers import whole_network
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses import BinaryKDLoss

HEAD = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64)
NETWORK = {'_scope_': 'mmpretrain', **whole_network(), 'head': HEAD}


def slow(student: Tensor, teacher: Tensor, tau: float, reduction: str) -> float:
    images = []
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        classes = []
        for s, t in zip(s_row, t_row, strict=True):
            q, p = (1 / (1 + math.exp(-logit / tau)) for logit in (s, t))
            classes.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        images.append(sum(classes) / (len(classes) if reduction == 'mean' else 1))
    return tau**2 * sum(images) / len(images)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('reduction', ['sum', 'mean'])
@pytest.mark.parametrize('tau', [1.0, 3.0])
def test_equals_a_slow_rewrite(tau: float, reduction: str, dtype: torch.dtype) -> None:
    student, teacher = 4 * torch.randn(5, 7).to(dtype), 4 * torch.randn(5, 7).to(dtype)
    loss = BinaryKDLoss(tau=tau, reduction=reduction, loss_weight=2.0)
    want = 2 * slow(student.double(), teacher.double(), tau, reduction)
    assert loss(student, teacher).item() == pytest.approx(want, rel=1e-9 if dtype == torch.float64 else 1e-4)


def test_its_gradient_is_that_of_the_heads_own_loss_with_the_teachers_answers() -> None:
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    (got,) = torch.autograd.grad(BinaryKDLoss()(student, teacher), student, retain_graph=True)
    head = MODELS.build({'_scope_': 'mmpretrain', **HEAD, 'num_classes': 7})
    samples = [DataSample().set_gt_score(scores) for scores in teacher.detach().sigmoid()]
    (want,) = torch.autograd.grad(head._get_loss(student, samples)['loss'], student)
    torch.testing.assert_close(got, want)
    BinaryKDLoss()(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize('scale', [1.0, 1e4])
def test_it_is_zero_where_both_agree_and_finite_where_they_do_not(scale: float) -> None:
    logits = scale * torch.randn(5, 7)
    assert BinaryKDLoss()(logits, logits).item() == 0
    student = (-logits).requires_grad_()
    loss = BinaryKDLoss()(student, logits)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    # sure of the opposite
    if scale > 1:
        torch.testing.assert_close(loss, student.abs().sum(1).mean(), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [(dict(tau=0), 'tau=0'), (dict(reduction='none'), "reduction='none'"), (dict(loss_weight='1'), 'loss_weight')],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'BinaryKDLoss: {message}'):
        BinaryKDLoss(**settings)


@pytest.mark.stack
@pytest.mark.parametrize(
    'distiller',
    [
        dict(type='ICDDistiller', kd=dict(type='BinaryKDLoss', tau=2.0)),
        dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='BinaryKDLoss', tau=2.0), features='logits'))),
    ],
    ids=lambda distiller: distiller['type'],
)
def test_networks_for_several_labels(distiller: dict, batch: Callable) -> None:
    model = dict(type='FrozenTeacherDistill', architecture=NETWORK, teacher=NETWORK, random_teacher=True)
    model = MODELS.build(dict(_scope_='mmrazor', distiller=distiller, **model)).eval()
    images, _ = batch()
    samples = [DataSample().set_gt_label([i, 9]) for i in range(len(images))]
    losses = model(images, samples, mode='loss')
    logits = [network(images, mode='tensor') for network in (model.architecture, model.teacher)]
    assert losses['distill.loss_kd'].item() == pytest.approx(slow(*logits, 2.0, 'sum'), rel=1e-4)
    answers = torch.zeros(len(images), 10)
    for i in range(len(images)):
        answers[i, [i, 9]] = 1
    want = F.binary_cross_entropy_with_logits(logits[0], answers, reduction='sum') / len(images)
    torch.testing.assert_close(losses['student.loss'], want)


def test_other_classes_are_refused_before_the_training() -> None:
    teacher = {**NETWORK, 'head': dict(HEAD, num_classes=7)}
    distiller = dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='BinaryKDLoss'), features='logits')))
    model = dict(type='SingleTeacherDistill', architecture=NETWORK, teacher=teacher, distiller=distiller)
    with pytest.raises(SettingError, match=r'BinaryKDLoss.*\(10,\).*\(7,\)'):
        MODELS.build(dict(_scope_='mmrazor', **model))
