"""Measures of predictions."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from icd_mmrazor.engine.evaluation import TeacherAgreement


def accuracy_of_classes(predicted: Tensor, labels: Tensor, count: int) -> list[float | None]:
    """Return the accuracy (%) of each class; None for one without images.

    Args:
        predicted: The predicted class of each image, ``N``.
        labels: The true one, ``N``.
        count: The number of classes.
    """
    right = (predicted == labels).double()
    return [100 * right[labels == c].mean().item() if bool((labels == c).any()) else None for c in range(count)]


def calibration(probabilities: Tensor, labels: Tensor, bins: int = 15) -> dict[str, Any]:
    """Compare the confidence of predictions, the highest probability of each, with their accuracy.

    The expected calibration error (Guo et al., ICML 2017, arXiv 1706.04599, equation 3): predictions are sorted into
    bins of equal width by their confidence, ``(a, b]``; the error is the mean of ``|accuracy - confidence|`` over the
    bins, weighted by their numbers of images.

    Args:
        probabilities: ``N x C``.
        labels: The class of each image, ``N``.
        bins: The number of bins.

    Returns:
        ``ece``, the mean ``confidence`` and ``accuracy``, all in %, and the ``reliability``: for each bin ``[images,
        confidence, accuracy]``, the last two None for a bin without images.
    """
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = torch.searchsorted(edges[1:-1].contiguous(), confidence)
    rows: list[list[Any]] = []
    error = 0.0
    for each in range(bins):
        inside = place == each
        number = int(inside.sum())
        means = [100 * values[inside].mean().item() if number else None for values in (confidence, right)]
        error += number * abs(means[0] - means[1]) if number else 0.0
        rows.append([number, *means])
    return {
        'ece': error / len(labels),
        'confidence': 100 * confidence.mean().item(),
        'accuracy': 100 * right.mean().item(),
        'reliability': rows,
    }


def agreement(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """Compare predictions with the teacher's as :class:`~icd_mmrazor.engine.evaluation.TeacherAgreement` does.

    Args:
        student: Probabilities, ``N x C``.
        teacher: Those of the teacher, ``N x C``.

    Returns:
        ``top1`` (%), and ``kl``, the mean divergence.
    """
    metric = TeacherAgreement()
    pairs = zip(student, teacher, strict=True)
    metric.process(None, [{'pred_score': own, 'teacher_score': whole} for own, whole in pairs])
    return metric.compute_metrics(metric.results)


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Return the area (%) under the ROC curve of telling known images from unknown ones by a score.

    It is the share of pairs in which the known image has the higher score; equal scores count half.

    Args:
        known: Scores, ``N``.
        unknown: Scores, ``M``.
    """
    others = np.sort(unknown.double().numpy())
    lower, not_higher = (np.searchsorted(others, known.double().numpy(), side) for side in ('left', 'right'))
    return float(50 * (lower + not_higher).mean() / len(others))
