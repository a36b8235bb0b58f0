"""Precision of retrieval by features."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.registry import METRICS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.engine.evaluation import BankMetric, bank_and_queries
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.functional import unit_vectors

DISTANCES = ('euclidean', 'cosine')
LEVELS = 11


@METRICS.register_module()
class RetrievalPrecision(BankMetric):
    """Precision of retrieving images of a query's class by the distance of pooled features, as in PKT and HKD.

    The bank of a ``KNNDataset`` is the database, its other images are the queries. For each query, all of the database
    is ranked by its distance. In percent, for each distance:

    * ``retrieval/map_euclidean``: mean over the queries of the average precision, which is the mean of the interpolated
      precision at 11 levels of recall, 0, 0.1, ..., 1, each at the first rank whose recall is nearest;
    * ``retrieval/top100_euclidean``: mean of the interpolated precision at rank 100.

    As released (passalis/pkth, commit 5766e63), precision is interpolated, which makes it the maximum of that of a rank
    and of later ones, in the first ``batch_size`` ranks alone. The authors' loop runs over the queries of a batch where
    it should run over the ranks, so their numbers depend on its size, 128. The last batch may have fewer queries.

    Args:
        distances: One or both of ``'euclidean'`` and ``'cosine'``.
        batch_size: Number of queries in a batch of this metric, apart from that of the validation.
        rank: Rank of the second metric, at most the size of the database.
        collect_device, prefix: Same as in mmengine's ``BaseMetric``.

    Raises:
        SettingError: A setting is out of range, the predictions lack the feature, or the images one label each.

    Config example, of a network alone; a ``FrozenTeacherDistill`` has ``predict_also=['pooled']``::

        model = dict(type='FeatureClassifier', backbone=dict(...), head=dict(...))
        val_dataloader=dict(dataset=dict(type='KNNDataset', bank=dict(...), queries=dict(...)))
        val_evaluator=dict(type='RetrievalPrecision')
    """

    default_prefix = 'retrieval'

    def __init__(
        self,
        distances: Sequence[str] = DISTANCES,
        batch_size: int = 128,
        rank: int = 100,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        names = [distances] if isinstance(distances, str) else distances
        if not isinstance(names, list | tuple) or not names:
            raise SettingError(f'RetrievalPrecision: distances={distances!r} must be a list of {", ".join(DISTANCES)}.')
        self.distances = [checks.one_of(self, 'distances', name, DISTANCES) for name in names]
        self.batch_size = checks.positive_int(self, 'batch_size', batch_size)
        self.rank = checks.positive_int(self, 'rank', rank)

    def compute_metrics(self, results: list[tuple[bool, int, Tensor]]) -> dict[str, float]:
        """Rank the database for each query; NaN if there is none of either, as in a check of one image."""
        (bank, labels), (queries, classes) = bank_and_queries(results)
        metrics = {}
        for distance in self.distances:
            means = [float('nan')] * 2
            if len(bank) and len(queries):
                parts = zip(queries.split(self.batch_size), classes.split(self.batch_size), strict=True)
                ranked = (labels[_ranking(distance, part, bank)] == asked[:, None] for part, asked in parts)
                found = [precisions(relevant, self.rank) for relevant in ranked]
                means = [100 * torch.cat(each).mean().item() for each in zip(*found, strict=True)]
            metrics |= dict(zip((f'map_{distance}', f'top{self.rank}_{distance}'), means, strict=True))
        return metrics


def _ranking(distance: str, queries: Tensor, bank: Tensor) -> Tensor:
    """Return the images of the bank from the nearest to the farthest, ``Q x N``; ties are in any order."""
    queries, bank = queries.double(), bank.double()
    if distance == 'cosine':
        distances = -unit_vectors(queries) @ unit_vectors(bank).T
    else:  # squared, without the length of the query
        distances = bank.square().sum(1) - 2 * queries @ bank.T
    # three times as fast as torch's
    return torch.from_numpy(np.argsort(distances.numpy(), axis=1))


def precisions(relevant: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Compute average precision and precision at a rank, as :class:`RetrievalPrecision` describes them.

    Args:
        relevant: Which images of a database are relevant for each query, from the nearest on, ``Q x N``.
        rank: Rank of the second result, from 1; the last one if there are fewer.

    Returns:
        Both of each query, ``Q``, between 0 and 1. Those of a query without relevant images are 0.
    """
    hits = relevant.cumsum(1)
    places = torch.cat([_places(hits), torch.full((len(hits), 1), min(rank, hits.shape[1]) - 1)], dim=1)
    precision = hits.gather(1, places) / (places + 1).double()
    # in the first ranks, as many as there are queries, the largest of theirs and of later ones among them
    first = hits[:, : len(hits)] / torch.arange(1, min(hits.shape) + 1, dtype=torch.double)
    first = first.flip(1).cummax(dim=1).values.flip(1)
    last = first.shape[1] - 1
    precision = torch.where(places <= last, first.gather(1, places.clamp(max=last)), precision)
    return precision[:, :-1].mean(1), precision[:, -1]


def _places(hits: Tensor) -> Tensor:
    """Return the first place whose recall is nearest to each level, ``Q x 11``, by the hits up to each place."""
    total, lowest = hits[:, -1:, None], hits[:, :1, None]
    levels = 0.1 * torch.arange(LEVELS, dtype=torch.double)[:, None]
    # the number of hits of a level, rounded in both directions
    number = torch.round(levels * total) + torch.arange(-1, 2)
    number = number.clamp(min=lowest, max=total)
    # argmin takes the first one, which has fewer hits
    nearest = (number / total.clamp(min=1) - levels).abs().argmin(dim=2, keepdim=True)
    return torch.searchsorted(hits, number.gather(2, nearest).squeeze(2).long())
