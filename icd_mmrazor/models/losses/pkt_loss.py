"""Probabilistic knowledge transfer (PKT)."""

import math

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import SHORTEST

# as published: added to lengths and to probabilities
EPS = 1e-7


@MODELS.register_module()
class PKTLoss(FeatureLoss):
    """Probabilistic knowledge transfer (PKT), ECCV 2018, arXiv 1803.10837.

    The cosines between the features of a batch, moved to 0..1 and divided by their sum, are the probabilities of an
    image's neighbours; the loss is the mean over all pairs of ``p_t log(p_t / p_s)``. The widths may differ. Published
    on the pooled features, with weight 30000. Arguments and errors are those of :class:`FeatureLoss`.

    Config example::

        distill_losses=dict(loss_pkt=dict(type='PKTLoss', loss_weight=30000.0))
    """

    compares_images = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of features ``B x D_s`` and ``B x D_t``."""
        p_s, p_t = _neighbours(student), _neighbours(teacher)
        return (p_t * ((p_t + EPS) / (p_s + EPS)).log()).mean()


def _neighbours(feature: Tensor) -> Tensor:
    """Return the probabilities, ``B x B``, whose rows sum to 1."""
    lengths = torch.linalg.vector_norm(feature, dim=1, keepdim=True)
    # a feature without a direction gets no gradient, as in unit_vectors
    feature = feature / (lengths + EPS).masked_fill(lengths < SHORTEST, math.inf)
    # rounding can take a cosine below -1
    similarities = ((feature @ feature.T + 1) / 2).clamp(min=0)
    return similarities / similarities.sum(dim=1, keepdim=True)
