"""Metrics of a search with one relevant image for each query."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@METRICS.register_module()
class MeanReciprocalRank(BaseMetric):
    """Mean of ``1 / rank`` of the relevant image of each query in percent, 0 beyond the first ``topk``: ``MRR@10``.

    It equals mmpretrain's ``RetrievalAveragePrecision(topk)`` if each query has exactly one relevant image, as in
    known-item search (:class:`~icd_mmrazor.datasets.queries.QueryDataset`), and is refused otherwise. That metric calls
    it mAP, and with several processes takes the queries of the first one only.

    Args:
        topk: How many images of a search count.
        collect_device, prefix: Same as in mmengine's ``BaseMetric``.

    Raises:
        SettingError: ``topk`` is not a positive integer; the predictions do not have a score for each image, or a
            query does not have one relevant image.

    Config example::

        val_evaluator=[
            dict(type='RetrievalRecall', topk=(1, 5, 20)),
            dict(type='MeanReciprocalRank', topk=10)]
        default_hooks=dict(checkpoint=dict(save_best='retrieval/MRR@10', rule='greater'))
    """

    default_prefix = 'retrieval'

    def __init__(self, topk: int = 10, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = checks.positive_int(self, 'topk', topk)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Rank the relevant image of each query.

        Args:
            data_batch: The batch; not read.
            data_samples: The predictions, with ``pred_score`` of each image of the gallery and ``gt_label``.
        """
        for sample in data_samples:
            relevant = sample.get('gt_label')
            if relevant is None or relevant.numel() != 1 or 'pred_score' not in sample:
                number = 'none' if relevant is None else relevant.numel()
                raise SettingError(
                    f'MeanReciprocalRank: each query must have one relevant image and predicted scores; one has '
                    f"{number}. Set val_dataloader.dataset=dict(type='QueryDataset', relevant='same_image', ...), or "
                    'use RetrievalAveragePrecision.'
                )
            scores = sample['pred_score']
            first = scores.topk(min(self.topk, len(scores))).indices
            place = (first == relevant.to(first.device)).nonzero()
            self.results.append(1 / (1 + place.item()) if len(place) else 0.0)

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Return the mean over all queries."""
        return {f'MRR@{self.topk}': 100 * torch.tensor(results, dtype=torch.float64).mean().item()}
