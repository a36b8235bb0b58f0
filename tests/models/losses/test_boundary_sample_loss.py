"""Boundary supporting samples against the authors' numbers and slow rewrites."""

import math

import numpy as np
import pytest
import torch
from helpers import DATA
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.boundary_sample_loss import (
    BoundarySampleLoss,
    base_samples,
    boundary_attack,
    target_classes,
)


@pytest.fixture(scope='module')
def golden() -> dict[str, Tensor]:
    with np.load(DATA / 'bss_attack.npz') as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays.files}


@pytest.fixture(scope='module')
def network(golden: dict[str, Tensor]) -> nn.Module:
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)
    found = nn.Sequential(*layers).double()
    weights = {name.removeprefix('state.'): value for name, value in golden.items() if name.startswith('state.')}
    found.load_state_dict(weights)
    return found


@pytest.mark.parametrize('steps', [1, 3, 10])
def test_attack_of_the_authors(golden: dict[str, Tensor], network: nn.Module, steps: int) -> None:
    with torch.no_grad():  # as around a teacher
        found = boundary_attack(network, golden['x'], golden['attack_class'], steps)
        torch.testing.assert_close(network(golden['x']), golden['logits'], atol=1e-12, rtol=0)
    torch.testing.assert_close(found, golden[f'adversarial_{steps}'], atol=1e-10, rtol=0)
    torch.testing.assert_close(network(found), golden[f'logits_{steps}'], atol=1e-10, rtol=0)


def test_attack_of_a_slow_rewrite(golden: dict[str, Tensor], network: nn.Module) -> None:
    found = boundary_attack(network, golden['x'], golden['attack_class'], 4, step_size=0.5, limit=1.5)
    for image, target, moved in zip(golden['x'], golden['attack_class'], found, strict=True):
        base = int(network(image[None])[0].argmax())
        for _ in range(4):
            image = image.clone().requires_grad_()
            logits = network(image[None])[0]
            (logits[target] - logits[base]).backward()
            gradient, image = image.grad, image.detach()
            if int(logits.argmax()) == base:
                image = image + 0.5 * (logits[base] - logits[target] + 1e-4).detach() * gradient / gradient.norm()
            image = image.clamp(-1.5, 1.5)
        torch.testing.assert_close(moved, image, atol=1e-10, rtol=0)


def test_an_image_without_a_gradient_stays() -> None:
    images = torch.ones(2, 1, 2, 2)
    bias = torch.tensor([1.0, 0.0])
    found = boundary_attack(lambda moved: 0 * moved.sum((1, 2, 3))[:, None] + bias, images, torch.tensor([1, 1]))
    assert torch.equal(found, images)


def test_base_samples_of_a_slow_rewrite() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(40, 4, generator=generator) for _ in range(2))
    labels = torch.randint(0, 4, (40,), generator=generator)
    scores = {}
    for i in range(40):
        if student[i].argmax() == teacher[i].argmax() == labels[i]:
            q, p = teacher[i].softmax(0), student[i].softmax(0)
            scores[i] = sum(float(q[c] - p[c]) ** 2 for c in range(4) if c != labels[i])
    assert len(scores) > 3
    assert set(base_samples(student, teacher, labels, 40).tolist()) == {*scores}
    assert base_samples(student, teacher, labels, 3).tolist() == sorted(scores, key=lambda i: -scores[i])[:3]
    assert not len(base_samples(student, -student, labels, 3))


def test_target_classes_follow_the_probabilities_of_the_other_classes() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = target_classes(probabilities.log().expand(20_000, 4), torch.Generator().manual_seed(0))
    shares = drawn.bincount(minlength=4) / 20_000
    assert shares[0] == 0
    torch.testing.assert_close(shares[1:], probabilities[1:] / 0.5, atol=0.015, rtol=0)
    # also where float32 has nothing left for the others
    assert set(target_classes(torch.tensor([[500.0, 0.0, 0.0]] * 50)).tolist()) == {1, 2}


def test_gradient_is_that_of_the_released_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=generator, requires_grad=True) for _ in range(2))
    BoundarySampleLoss(tau=3.0, loss_weight=2.0)(student, teacher).backward()
    expected = -2.0 * ((teacher / 3).softmax(1).detach() * (student / 3).log_softmax(1)).sum() / 6
    torch.testing.assert_close(student.grad, torch.autograd.grad(expected, student)[0])
    assert teacher.grad is None


def test_weight_of_an_epoch_is_the_released_one() -> None:
    loss = BoundarySampleLoss(weight_schedule=dict(type='Linear', end=60, start_factor=2 - 1 / 30, end_factor=0.0))
    for epoch in range(80):
        loss.set_progress(epoch, 0)
        assert math.isclose(loss.weight, max(2 * (1 - 4 * (epoch + 1) / (3 * 80)), 0), abs_tol=1e-12)
        assert loss.scheduled_weight.factor.item() == pytest.approx(loss.weight, abs=1e-6)


def test_a_weight_that_counts_iterations() -> None:
    loss = BoundarySampleLoss(loss_weight=3.0, weight_schedule=dict(type='Constant', end=5, by_epoch=False))
    with pytest.raises(SettingError, match=r'weight_schedule depends on the epoch.*LossScheduleHook'):
        loss(torch.zeros(1, 2), torch.zeros(1, 2))
    loss.set_progress(9, 4)
    assert loss.weight == 0
    loss.set_progress(0, 5)
    assert loss.weight == 3


@pytest.mark.parametrize('settings', [{'tau': 0}, {'loss_weight': -1.0}, {'weight_schedule': dict(type='Linear')}])
def test_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        BoundarySampleLoss(**settings)
