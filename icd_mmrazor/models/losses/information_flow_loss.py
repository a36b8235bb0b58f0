"""Divergence of the information flow of two networks (HKD)."""

import math

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import SHORTEST

# as released: added to lengths and to squared distances
EPS = 1e-6


@MODELS.register_module()
class InformationFlowLoss(FeatureLoss):
    """Information flow divergence of one layer (HKD, Passalis, Tzelepi and Tefas, CVPR 2020, arXiv 2005.00727).

    Two kernels compare the images of a batch: the cosine, moved to 0..1, and Student's t of the distance ``d``,
    ``1 / (1 + d)``. Divided by the sum of its row, each gives the probabilities ``p(j|i)`` of the neighbours ``j`` of
    an image ``i``. The loss is Jeffreys' divergence of teacher and student, ``(p_t - p_s) (log p_t - log p_s)``, summed
    over both kernels. Features are flattened, and their widths may differ.

    As released (passalis/pkth, commit 5766e63), an image is one of its own neighbours; the paper's sums leave it out.
    A feature of length 0, as a ReLU may give, gets no gradient from the cosine; the release's is NaN. The
    cosine kernel is at least 1e-6, which the release's is not: for opposite directions it may be rounded to 0, whose
    logarithm is infinite.

    Args:
        loss_weight: Weight of the loss.
        reduction: ``'mean'``, over all ``B * B`` pairs, as released; ``'batchmean'``, summed over the neighbours and
            averaged over the images, ``B`` times as much.

    Raises:
        SettingError: ``reduction`` is neither.

    Config example, HKD's weights by the epoch::

        losses=dict(
            flow=dict(
                loss=dict(type='InformationFlowLoss'),
                features='maps',
                weight_schedule=dict(type='Exponential', start_factor=100.0, gamma=0.7)),
            last=dict(loss=dict(type='InformationFlowLoss'), features='pooled'))
    """

    compares_images = True

    def __init__(self, loss_weight: float = 1.0, reduction: str = 'mean') -> None:
        super().__init__(loss_weight)
        self.reduction = checks.one_of(self, 'reduction', reduction, ('mean', 'batchmean'))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of features ``B x D_s`` and ``B x D_t``; a batch of one image gives 0."""
        of_cosine, of_distance = (_jeffreys(kernel(student), kernel(teacher)) for kernel in (_cosine, _student_t))
        return (of_cosine + of_distance) / len(student) ** (2 if self.reduction == 'mean' else 1)


def _cosine(feature: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(feature, dim=1, keepdim=True)
    # a feature without a direction gets no gradient, as in unit_vectors
    feature = feature / (lengths + EPS).masked_fill(lengths < SHORTEST, math.inf)
    # of opposite directions it may be rounded to 0, whose logarithm is infinite
    return ((feature @ feature.T + 1) / 2).clamp(min=EPS)


def _student_t(feature: Tensor) -> Tensor:
    # distances stay the same, and less of them is lost by subtracting large numbers
    feature = feature - feature.mean(dim=0)
    squares = feature.square().sum(dim=1)
    squared = (squares[:, None] + squares - 2 * feature @ feature.T).clamp(min=0)
    # the distance of an image to itself is 0, whatever rounding says
    squared = squared * (1 - torch.eye(len(feature), dtype=feature.dtype, device=feature.device))
    return 1 / (1 + (squared + EPS).sqrt())


def _jeffreys(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence of the rows of two kernels, ``B x B``, summed over all pairs."""
    sums_s, sums_t = student.sum(dim=1, keepdim=True), teacher.sum(dim=1, keepdim=True)
    logarithms = (teacher.log() - sums_t.log()) - (student.log() - sums_s.log())
    return ((teacher / sums_t - student / sums_s) * logarithms).sum()
