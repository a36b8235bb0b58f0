"""Metrics of searches against slow rewrites."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from mmpretrain.evaluation import RetrievalAveragePrecision, RetrievalRecall
from mmpretrain.structures import DataSample

from icd_mmrazor.engine.retrieval_metrics import MeanReciprocalRank
from icd_mmrazor.errors import SettingError

QUERIES, GALLERY = 30, 40


@pytest.fixture
def predictions() -> tuple[np.ndarray, list[int], list[dict]]:
    """Scores of a gallery for each query, its relevant image, and both as a retriever predicts them."""
    generator = np.random.default_rng(0)
    scores, relevant = generator.normal(size=(QUERIES, GALLERY)), generator.integers(0, GALLERY, QUERIES).tolist()
    scores[np.arange(QUERIES), relevant] += 1.5
    samples = [
        DataSample().set_pred_score(torch.from_numpy(row)).set_gt_label([place]).to_dict()
        for row, place in zip(scores, relevant, strict=True)
    ]
    return scores, relevant, samples


def rank(row: Sequence[float], relevant: int) -> int:
    return 1 + sum(score > row[relevant] for score in row)


def evaluated(metric: object, samples: list[dict], batch: int = 7) -> dict[str, float]:
    for start in range(0, len(samples), batch):
        metric.process({}, samples[start : start + batch])
    return metric.evaluate(len(samples))


def test_mean_reciprocal_rank(predictions: tuple) -> None:
    scores, relevant, samples = predictions
    ranks = [rank(row, place) for row, place in zip(scores, relevant, strict=True)]
    assert min(ranks) == 1
    assert max(ranks) > 10
    for topk in (1, 10, 200):
        want = 100 * sum(1 / each for each in ranks if each <= topk) / QUERIES
        assert evaluated(MeanReciprocalRank(topk), samples) == {f'retrieval/MRR@{topk}': pytest.approx(want)}
    # what mmpretrain calls mAP is the same with one relevant image
    own = evaluated(RetrievalAveragePrecision(topk=10), samples)['retrieval/mAP@10']
    assert own == pytest.approx(evaluated(MeanReciprocalRank(), samples)['retrieval/MRR@10'])


def test_recall_is_the_share_of_queries_whose_image_is_among_the_first(predictions: tuple) -> None:
    scores, relevant, samples = predictions
    ranks = [rank(row, place) for row, place in zip(scores, relevant, strict=True)]
    found = evaluated(RetrievalRecall(topk=(1, 5, 20)), samples)
    for k in (1, 5, 20):
        assert found[f'retrieval/Recall@{k}'] == pytest.approx(100 * sum(each <= k for each in ranks) / QUERIES)


@pytest.mark.parametrize(
    'sample',
    [
        DataSample().set_pred_score(torch.ones(4)),
        DataSample().set_pred_score(torch.ones(4)).set_gt_label([1, 2]),
        DataSample().set_gt_label([1]),
    ],
)
def test_queries_without_one_relevant_image(sample: DataSample) -> None:
    with pytest.raises(SettingError, match="relevant='same_image'"):
        MeanReciprocalRank().process({}, [sample.to_dict()])


def test_wrong_settings() -> None:
    with pytest.raises(SettingError, match='topk'):
        MeanReciprocalRank(0)
