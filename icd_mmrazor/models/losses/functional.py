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
    return temperature**2 * F.kl_div(log_p, log_q, reduction='batchmean', log_target=True)


def standardized(logits: Tensor) -> Tensor:
    """Standardise the logits of each image (logit standardisation, arXiv 2403.01427): mean 0, deviation 1.

    As released (sunshangquan/logit-standardization-KD), the deviation is that of a sample, with ``C - 1``, and ``1e-7``
    is added to it. The paper has ``C``.

    Args:
        logits: Logits, ``B x C``. The gradient flows through their mean and deviation, too.

    Returns:
        The standardised logits.
    """
    return (logits - logits.mean(dim=1, keepdim=True)) / (1e-7 + logits.std(dim=1, keepdim=True))


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
    return [pool_to(m, size) for m in maps]


def pool_to(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Average a map ``B x C x H x W`` to a height and width."""
    height, width = feature.shape[2:]
    if (height, width) == size:
        return feature
    if height % size[0] == 0 and width % size[1] == 0:
        # same values, and its gradient is deterministic on a GPU
        return F.avg_pool2d(feature, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(feature, size)
