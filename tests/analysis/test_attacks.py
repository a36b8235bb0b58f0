"""Adversarial examples against a slow rewrite, and counts that one can make by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icd_mmrazor.analysis.attacks import attacked, pgd, transfer


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 9, 5)
    return nn.Sequential(*layers).double()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 3, 1, 4])


def slow_pgd(network: nn.Module, images: Tensor, labels: Tensor, start: Tensor, steps: int) -> np.ndarray:
    """Attack image by image, with numpy; the sign of a gradient by torch."""
    found = []
    for image, label, begin in zip(images, labels, start, strict=True):
        original, changed = image.numpy(), begin.numpy()
        for _ in range(steps):
            x = torch.tensor(changed, requires_grad=True)
            loss = -F.log_softmax(network(x[None])[0], 0)[label]
            loss.backward()
            changed = changed + 0.003 * np.sign(x.grad.numpy())
            changed = np.minimum(np.maximum(changed, original - 0.031), original + 0.031)
            changed = np.minimum(np.maximum(changed, 0), 1)
        found.append(changed)
    return np.stack(found)


@pytest.mark.parametrize('steps', [1, 20])
def test_pgd_is_that_of_a_slow_rewrite(network: nn.Module, images: Tensor, steps: int) -> None:
    found = pgd(network, images, LABELS, steps=steps, generator=torch.Generator().manual_seed(3))
    drawn = torch.rand(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    start = images - 0.031 + 0.062 * drawn
    np.testing.assert_allclose(found, slow_pgd(network, images, LABELS, start, steps), atol=1e-12)


def test_attacks_stay_close_and_harm(network: nn.Module, images: Tensor) -> None:
    found = pgd(network, images, LABELS, eps=0.1, step=0.02, steps=10)
    assert not found.requires_grad
    assert float((found - images).abs().max()) <= 0.1 + 1e-12
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    before, after = (F.cross_entropy(network(each), LABELS, reduction='none') for each in (images, found))
    assert bool((after > before).all())


def test_attack_of_many_images_is_seeded_and_works_without_gradients_around(network: nn.Module) -> None:
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = [attacked(network.float(), pixels, LABELS, 3, seed, steps=2) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


class Told:
    """A network that predicts what it is told for images that are named by their first pixel."""

    def __init__(self, **classes: int) -> None:
        self.classes = classes

    def __call__(self, pixels: Tensor) -> Tensor:
        names = [f'i{round(255 * float(image.flatten()[0]))}' for image in pixels]
        return torch.eye(3)[[self.classes[name] for name in names]]


def named(*names: int) -> Tensor:
    return torch.tensor(names, dtype=torch.uint8).view(-1, 1, 1, 1)


def test_transfer_counts_what_both_have_right_and_fools_the_teacher() -> None:
    # clean images 1 to 5, attacked 11 to 15, all of class 0
    teacher = Told(i1=0, i2=0, i3=0, i4=1, i5=0, i11=1, i12=2, i13=0, i14=1, i15=1)
    student = Told(i1=0, i2=0, i3=0, i4=0, i5=2, i11=2, i12=0, i13=1, i14=1, i15=1)
    labels = torch.zeros(5, dtype=torch.int64)
    found = transfer(student, teacher, named(1, 2, 3, 4, 5), named(11, 12, 13, 14, 15), labels, 2)
    # 3 does not fool the teacher, which had 4 wrong, as the student 5
    assert found == {'counted': 2, 'rate': 50.0}
    found = transfer(student, teacher, named(3), named(13), labels[:1], 2)
    assert found == {'counted': 0, 'rate': None}
