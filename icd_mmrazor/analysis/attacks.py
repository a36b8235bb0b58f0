"""Adversarial examples."""

from typing import Any

import torch
from mmengine.device import get_device
from torch import Tensor
from torch.nn import functional as F

from icd_mmrazor.analysis.networks import Network, logits_of

EPS, STEP, STEPS = 0.031, 0.003, 20


def pgd(
    network: Network,
    images: Tensor,
    labels: Tensor,
    eps: float = EPS,
    step: float = STEP,
    steps: int = STEPS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack a network by projected gradient descent in the L-infinity ball (arXiv 1706.06083, section 2).

    The loss is the cross-entropy. The start is drawn from the ball, and is clipped to the pixels' range after the first
    step only, as released (NeurAI-Lab/CURE at 1526e4ab, ``metrics/transferability.py``, whose defaults these are).

    Args:
        network: From pixels of 0 to 1 to logits; normalisation is a part of it.
        images: Pixels of 0 to 1, ``B x C x H x W``.
        labels: The true classes, ``B``.
        eps: The largest change of a pixel.
        step: The change in a step.
        steps: The number of steps.
        generator: Of the CPU, for the start.

    Returns:
        The changed images, ``B x C x H x W``.
    """
    start = torch.rand(images.shape, generator=generator, dtype=images.dtype).to(images.device)
    changed = images + eps * (2 * start - 1)
    for _ in range(steps):
        with torch.enable_grad():
            changed.requires_grad_()
            loss = F.cross_entropy(network(changed), labels, reduction='sum')
            (gradient,) = torch.autograd.grad(loss, changed)
        moved = changed.detach() + step * gradient.sign()
        changed = (images + (moved - images).clamp(-eps, eps)).clamp(0, 1)
    return changed.detach()


def attacked(
    network: Network, images: Tensor, labels: Tensor, batch_size: int, seed: int = 0, **settings: Any
) -> Tensor:
    """Attack a network with :func:`pgd`, batch by batch.

    Args:
        network: The network.
        images: uint8, ``N x C x H x W``.
        labels: Their classes, ``N``.
        batch_size: The number of images in a batch.
        seed: For the random starts.
        **settings: ``eps``, ``step`` and ``steps``.

    Returns:
        Pixels of 0 to 1, on the CPU.
    """
    generator, found = torch.Generator().manual_seed(seed), []
    for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        pixels, truth = (part.float() / 255).to(get_device()), truth.to(get_device())
        found.append(pgd(network, pixels, truth, generator=generator, **settings).cpu())
    return torch.cat(found)


def transfer(
    student: Network, teacher: Network, images: Tensor, changed: Tensor, labels: Tensor, batch_size: int
) -> dict[str, Any]:
    """Return how often an attack on the teacher also fools the student.

    Counted are the images that both networks classify correctly, and whose attack fools the teacher.

    Args:
        student: The student.
        teacher: The teacher.
        images: uint8, ``N x C x H x W``.
        changed: The same, attacked on the teacher.
        labels: Their classes, ``N``.
        batch_size: The number of images in a batch.

    Returns:
        ``counted``, the number of these images, and the ``rate`` in %; None without any.
    """
    wrong = {
        (name, kind): logits_of(network, pixels, batch_size).argmax(1) != labels
        for name, network in (('student', student), ('teacher', teacher))
        for kind, pixels in (('clean', images), ('changed', changed))
    }
    counted = ~wrong['student', 'clean'] & ~wrong['teacher', 'clean'] & wrong['teacher', 'changed']
    number = int(counted.sum())
    fooled = int((wrong['student', 'changed'] & counted).sum())
    return {'counted': number, 'rate': 100 * fooled / number if number else None}
