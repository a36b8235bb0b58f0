"""Formulas of the losses in plain PyTorch."""

import contextlib
import functools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-12
# rounding errors of a mean, in units of the last place
ROUNDING = 16


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


def kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Compute knowledge distillation (KD, arXiv 1503.02531): the divergence of softened predictions.

    Args:
        student: The student's logits, ``B x C``.
        teacher: The teacher's logits; they get no gradient.
        temperature: Divides the logits; its square multiplies the loss.

    Returns:
        The mean over the images, a scalar.
    """
    log_p, log_q = ((logits / temperature).log_softmax(dim=1) for logits in (student, teacher.detach()))
    return temperature**2 * divergence(log_p, log_q)


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
        alpha: Weight of the divergence of the label's class against all others together.
        beta: Weight of the divergence among the other classes.
        temperature: Divides the logits; its square multiplies the loss.

    Returns:
        The mean over the images, a scalar.
    """
    student, teacher = (logits / temperature for logits in (student, teacher.detach()))
    target = divergence(*(one_against_rest(logits, labels) for logits in (student, teacher)))
    label = is_class(labels, student)
    others = divergence(*(without(logits, label).log_softmax(dim=1) for logits in (student, teacher)))
    return temperature**2 * (alpha * target + beta * others)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute ``KL(teacher || student)`` of log-probabilities, rows of classes: the mean over the rows."""
    return F.kl_div(student, teacher, reduction='batchmean', log_target=True)


def one_against_rest(logits: Tensor, classes: Tensor) -> Tensor:
    """Compute the log-probabilities of a class of each image and of all others together.

    Args:
        logits: Logits, ``B x C``.
        classes: The class of each image, ``B``.

    Returns:
        ``B x 2``. No probability is formed before the logarithm, so the sum of the others cannot become 0.
    """
    chosen = logits.gather(1, classes[:, None])
    rest = without(logits, is_class(classes, logits)).logsumexp(dim=1, keepdim=True)
    return torch.cat([chosen, rest], dim=1).log_softmax(dim=1)


def is_class(classes: Tensor, logits: Tensor) -> Tensor:
    """Return a mask ``B x C`` like the logits that is true at the class of each image, ``B``."""
    return classes[:, None] == torch.arange(logits.shape[1], device=logits.device)


def without(logits: Tensor, excluded: Tensor) -> Tensor:
    """Replace logits so that a softmax gives them the probability 0 and no gradient.

    The number is finite, so that the divergence of two probabilities of 0 is 0, and where everything is excluded, too.
    """
    return logits.masked_fill(excluded, torch.finfo(logits.dtype).min / 2)


def standardized(logits: Tensor) -> Tensor:
    """Standardise the logits of each image (logit standardisation, arXiv 2403.01427): mean 0, deviation 1.

    As released (sunshangquan/logit-standardization-KD), the deviation is that of a sample, with ``C - 1``, and ``1e-7``
    is added to it. The paper has ``C``. Equal logits, up to rounding errors, become 0 and get no gradient; the release
    multiplies their gradient by ``1e7``.

    Args:
        logits: Logits, ``B x C``. The gradient flows through their mean and deviation, too.

    Returns:
        The standardised logits.
    """
    return centred(logits, SHORTEST) / (1e-7 + logits.std(dim=1, keepdim=True))


def centred(rows: Tensor, smallest: float = 0.0) -> Tensor:
    """Subtract the mean of each row; a row of equal numbers becomes 0 and gets no gradient.

    Numbers count as equal if their differences are rounding errors, or not greater than ``smallest``.
    """
    differences = rows - rows.mean(dim=1, keepdim=True)
    rounding = ROUNDING * torch.finfo(rows.dtype).eps * rows.detach().abs().amax(dim=1, keepdim=True)
    equal = differences.detach().abs().amax(dim=1, keepdim=True) <= rounding.clamp(min=smallest)
    return differences.masked_fill(equal, 0.0)


def unit_vectors(vectors: Tensor, dim: int = 1) -> Tensor:
    """Divide the vectors along a dimension by their lengths; a NaN or an infinity makes its vector NaN.

    Same as ``torch.nn.functional.normalize``, to the bit, except for vectors shorter than ``1e-12``: they have no
    direction, become 0 and get no gradient. ``normalize`` multiplies their gradient by ``1e12``, so that one image
    whose feature is 0 ends a run.
    """
    lengths = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / lengths.masked_fill(lengths < SHORTEST, math.inf)


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
    return [_pooled(m, size) for m in maps]


def _pooled(feature: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = feature.shape[2:]
    if (height, width) == size:
        return feature
    if height % size[0] == 0 and width % size[1] == 0:
        # same values, and its gradient is deterministic on a GPU
        return F.avg_pool2d(feature, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(feature, size)
