"""Measures of predictions against slow rewrites."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from mmpretrain.evaluation import SingleLabelMetric
from torch import Tensor

from icd_mmrazor.analysis.scores import accuracy_of_classes, agreement, auroc, calibration


def probabilities(images: int, classes: int = 4, seed: int = 0) -> Tensor:
    return (2 * torch.randn(images, classes, generator=torch.Generator().manual_seed(seed))).double().softmax(1)


def slow_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    edges = np.linspace(0, 1, bins + 1)
    inside = [(confidence > low) & (confidence <= high) for low, high in pairwise(edges)]
    return 100 * sum(abs(confidence[i].mean() - right[i].mean()) * i.mean() for i in inside if i.any())


@pytest.mark.parametrize('bins', [1, 10, 15])
def test_calibration_error_of_a_slow_rewrite(bins: int) -> None:
    scores, labels = probabilities(200), torch.arange(200) % 4
    found = calibration(scores, labels, bins)
    confidence, predicted = scores.numpy().max(1), scores.numpy().argmax(1)
    right = (predicted == labels.numpy()).astype(float)
    assert found['ece'] == pytest.approx(slow_error(confidence, right, bins), abs=1e-10)
    assert found['confidence'] == pytest.approx(100 * confidence.mean())
    assert found['accuracy'] == pytest.approx(100 * right.mean())


def test_an_edge_belongs_to_the_bin_below() -> None:
    scores = torch.tensor([[0.6, 0.4], [0.61, 0.39], [1.0, 0.0], [0.8, 0.2]], dtype=torch.float64)
    found = calibration(scores, torch.tensor([0, 0, 0, 1]), 10)
    assert [row[0] for row in found['reliability']] == [0, 0, 0, 0, 0, 1, 1, 1, 0, 1]
    assert found['reliability'][0] == [0, None, None]
    assert found['reliability'][7] == [1, pytest.approx(80), 0]


def test_certain_and_right_is_calibrated() -> None:
    assert calibration(torch.eye(4).double(), torch.arange(4))['ece'] == 0


def test_accuracy_of_a_class_is_the_recall() -> None:
    predicted, labels = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 0])
    found = accuracy_of_classes(predicted, labels, 3)
    assert found[2] is None  # it has no images
    expected = SingleLabelMetric.calculate(predicted, labels, average=None, num_classes=2)[1]
    assert found[:2] == pytest.approx(expected.tolist())


def test_agreement_is_not_symmetric() -> None:
    student, teacher = probabilities(50), probabilities(50, seed=1)
    found = agreement(student, teacher)
    same = [int(s.argmax()) == int(t.argmax()) for s, t in zip(student, teacher, strict=True)]
    assert found['top1'] == pytest.approx(100 * np.mean(same))
    divergence = (teacher * (teacher / student).log()).sum(1).mean().item()
    assert found['kl'] == pytest.approx(divergence)
    assert agreement(teacher, teacher) == {'top1': 100, 'kl': pytest.approx(0, abs=1e-12)}


def test_auroc_counts_pairs() -> None:
    known, unknown = torch.tensor([3.0, 1.0, 2.0, 2.0]), torch.tensor([0.0, 2.0, 2.5])
    pairs = [1.0 if k > u else 0.5 if k == u else 0.0 for k in known for u in unknown]
    assert auroc(known, unknown) == pytest.approx(100 * np.mean(pairs))
    assert auroc(unknown, known) == pytest.approx(100 - auroc(known, unknown))


def test_auroc_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip('sklearn.metrics')
    scores = torch.randn(300, generator=torch.Generator().manual_seed(0)).mul(4).round()  # with ties
    truth = np.arange(300) % 3 == 0
    expected = 100 * metrics.roc_auc_score(truth, scores.numpy())
    assert auroc(scores[truth], scores[~truth]) == pytest.approx(expected, abs=1e-10)
