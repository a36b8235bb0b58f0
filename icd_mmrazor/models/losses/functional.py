"""Formulas of the losses in plain PyTorch."""

import contextlib
import functools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-12


def icd(
    student: Tensor,
    teacher: Tensor,
    tau: Tensor | float,
    bias: Tensor | float = 0.0,
    students: Tensor | None = None,
    teachers: Tensor | None = None,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Compute the two terms of ICD (arXiv 2407.11802), each summed over the images.

    Args:
        student: The student's embeddings, unit vectors, ``B x E``.
        teacher: The teacher's embeddings of the same images.
        tau: Temperature, which multiplies.
        bias: Added to the similarities. A softmax ignores it.
        students: Embeddings of all images to compare with, ``N x E``; ``student`` by default.
        teachers: The teacher's embeddings of those images.
        first: The row of ``students`` that ``student`` starts at.

    Returns:
        The contrastive and the invariance term.
    """
    similarities = tau * student @ (teacher if teachers is None else teachers).T + bias
    transposed = similarities.T if students is None else tau * teacher @ students.T + bias
    log_p, log_q = similarities.log_softmax(dim=1), transposed.log_softmax(dim=1)
    contrastive = -log_p.diagonal(first).sum()
    invariance = F.kl_div(log_p, log_q, reduction='sum', log_target=True)
    return contrastive, invariance


def kd(student: Tensor, teacher: Tensor, temperature: Tensor | float = 4.0) -> Tensor:
    """Compute knowledge distillation (KD, arXiv 1503.02531): the divergence of softened predictions.

    Args:
        student: The student's logits, ``B x C``.
        teacher: The teacher's logits; they get no gradient.
        temperature: Divides the logits; its square multiplies the loss. It gets a gradient if it is a tensor.

    Returns:
        The mean over the images, a scalar.
    """
    with full_precision(student, teacher.detach()) as (student, teacher):
        return temperature**2 * softmax_divergence(student / temperature, teacher / temperature)


def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: Tensor | float = 4.0,
) -> Tensor:
    """Compute decoupled knowledge distillation (DKD, arXiv 2203.08679).

    Args:
        student: The student's logits, ``B x C``.
        teacher: The teacher's logits; they get no gradient.
        labels: The class of each image, ``B``.
        alpha: Weight of the divergence between the probabilities of the label's class and of all others together.
        beta: Weight of the divergence between the probabilities among the other classes.
        temperature: Divides the logits; its square multiplies the loss. It gets a gradient if it is a tensor.

    Returns:
        The mean over the images, a scalar.
    """
    with full_precision(student, teacher.detach()) as (student, teacher):
        s_target, s_others = decoupled(student / temperature, labels)
        t_target, t_others = decoupled(teacher / temperature, labels)
        target, others = softmax_divergence(s_target, t_target), softmax_divergence(s_others, t_others)
        return temperature**2 * (alpha * target + beta * others)


def decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split logits at the class of each image.

    Args:
        logits: Logits, ``B x C``.
        labels: The class of each image, ``B``.

    Returns:
        Logits of the label's class against all others together, ``B x 2``, and those of the others, ``B x (C - 1)``.
    """
    labels = labels[:, None]
    # the same for a softmax; the sum of powers would be lost in large logits
    logits = logits - logits.detach().amax(dim=1, keepdim=True)
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    rest = logits.gather(1, others + (others >= labels))
    return torch.cat([logits.gather(1, labels), rest.logsumexp(1, keepdim=True)], dim=1), rest


def without(logits: Tensor, excluded: Tensor) -> Tensor:
    """Replace logits so that a softmax gives them the probability 0 and no gradient.

    The number is finite, so that the divergence of two probabilities of 0 is 0, and where everything is excluded, too.

    Args:
        logits: Logits, ``B x C``.
        excluded: Which of them to replace, a mask of the same shape.
    """
    return logits.masked_fill(excluded, torch.finfo(logits.dtype).min / 2)


def softmax_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute ``KL(softmax(teacher) || softmax(student))`` of logits ``B x C``, the mean over the images."""
    log_q, log_p = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    return F.kl_div(log_q, log_p, reduction='batchmean', log_target=True)


def standardized(logits: Tensor) -> Tensor:
    """Standardise the logits of each image (logit standardisation, arXiv 2403.01427): mean 0, deviation 1.

    As released (sunshangquan/logit-standardization-KD), the deviation is that of a sample, with ``C - 1``, and ``1e-7``
    is added to it. The paper has ``C``. Equal logits, up to rounding errors, become 0 and get no gradient; the release
    multiplies their gradient by ``1e7``.

    Args:
        logits: Logits, ``B x C``. The gradient flows through their mean and deviation, too.

    Returns:
        The standardised logits, in at least float32.
    """
    with full_precision(logits) as (logits,):
        return deviations(logits, dim=1, correction=1, eps=1e-7)


def unit_vectors(vectors: Tensor, dim: int = 1) -> Tensor:
    """Divide the vectors along a dimension by their lengths; a NaN or an infinity makes its vector NaN.

    Same as ``torch.nn.functional.normalize``, to the bit, except for vectors shorter than ``1e-12``: they have no
    direction, become 0 and get no gradient. ``normalize`` multiplies their gradient by ``1e12``, so that one image
    whose feature is 0 ends a run.
    """
    lengths = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / lengths.masked_fill(lengths < SHORTEST, math.inf)


def deviations(features: Tensor, dim: int = 0, correction: int = 0, eps: float = 0.0) -> Tensor:
    """Subtract the mean along a dimension, and divide by the standard deviation.

    What is constant along it, up to rounding, has no deviation, becomes 0 and gets no gradient: a unit that is dead in
    a batch would make the loss NaN. A NaN or an infinity makes its column NaN.

    Args:
        features: Features, ``B x D``.
        dim: 0 for each unit over the images of the batch, 1 for each image over its units.
        correction: 1 for the deviation of a sample, which divides by one less; there must be two numbers then.
        eps: Added to the deviation.
    """
    differences = features - features.mean(dim, keepdim=True)
    number = features.shape[dim] - correction
    deviation = torch.linalg.vector_norm(differences, dim=dim, keepdim=True) / math.sqrt(number)
    rounding = 8 * torch.finfo(features.dtype).eps * features.detach().abs().amax(dim, keepdim=True)
    return differences / (deviation + eps).masked_fill(deviation <= rounding.clamp(min=SHORTEST), math.inf)


@contextlib.contextmanager
def full_precision(*features: Tensor) -> Iterator[list[Tensor]]:
    """Turn autocast off, and yield features cast to one type, at least float32.

    Sums of squares and products of whole maps exceed the range of half precision.
    """
    dtype = functools.reduce(torch.promote_types, (feature.dtype for feature in features), torch.float32)
    with torch.autocast(features[0].device.type, enabled=False):
        yield [feature.to(dtype) for feature in features]


def pool_to_smaller(*maps: Tensor) -> list[Tensor]:
    """Average maps ``B x C x H x W`` to the smallest height and width among them."""
    size = min(m.shape[2] for m in maps), min(m.shape[3] for m in maps)
    return [average_to(m, size) for m in maps]


def average_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average maps ``B x C x H x W`` to a height and width, as ``adaptive_avg_pool2d`` does; a larger size repeats."""
    height, width = maps.shape[2:]
    if (height, width) == tuple(size):
        return maps
    # same values, and their gradients are deterministic on a GPU
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(maps, (height // size[0], width // size[1]))
    if size[0] % height == 0 and size[1] % width == 0:
        return F.interpolate(maps, size, mode='nearest')
    return F.adaptive_avg_pool2d(maps, size)
