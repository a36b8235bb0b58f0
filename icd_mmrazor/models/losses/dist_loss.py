"""Correlations of predictions with those of a stronger teacher (DIST)."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import LogitLoss


@MODELS.register_module()
class PearsonCorrelationLoss(LogitLoss):
    r"""Correlation of the student's probabilities with the teacher's (DIST, Huang et al., NeurIPS 2022).

    With the matrix of the probabilities, images x classes, and Pearson's correlation ``r``::

        tau**2 * (inter_weight * (1 - mean r of the rows) + intra_weight * (1 - mean r of the columns))

    The rows are the classes of an image (inter-class relations), the columns the images of a batch for one class
    (intra-class relations). A correlation ignores scale and offset, so the student need not reach the probabilities of
    a teacher that is much stronger.

    Equal to the authors' code (hunto/image_classification_sota, commit 6f7a70a1), as mmrazor's ``DISTLoss`` is, apart
    from one case: a row or column of equal numbers has no direction. Both multiply its gradient by up to ``1e8``: above
    ``1e6`` if a classifier starts with zeros, or if all images give the same logits, which ends a run. Here, it gets no
    gradient. The ``1e-8`` that is added to the product of the lengths is kept. It is more than a safeguard: with many
    classes, the lengths of the columns of rare ones have products below that.

    With several processes, the columns are those of the batch of one process, as published, unless the entry of
    ``losses`` has ``gather_distributed=True``. A batch of one image has no columns to compare: it gives ``tau**2 *
    intra_weight`` for them.

    Args:
        tau: Temperature of the probabilities: 4 on CIFAR-100, 1 on ImageNet.
        inter_weight: Weight of the rows, 0 or greater.
        intra_weight: Weight of the columns, 0 or greater.
        loss_weight: Weight of the loss. The authors use 2, which multiplies both.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        losses=dict(dist=dict(loss=dict(type='PearsonCorrelationLoss', loss_weight=2.0), features='logits'))
    """

    def __init__(
        self,
        tau: float = 4.0,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.tau = checks.positive(self, 'tau', tau)
        self.inter_weight = checks.not_negative(self, 'inter_weight', inter_weight)
        self.intra_weight = checks.not_negative(self, 'intra_weight', intra_weight)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of logits ``B x C``."""
        student, teacher = ((logits / self.tau).softmax(dim=1) for logits in (student, teacher))
        inter = 1 - _correlations(student, teacher).mean()
        intra = 1 - _correlations(student.T, teacher.T).mean()
        return self.tau**2 * (self.inter_weight * inter + self.intra_weight * intra)


def _correlations(a: Tensor, b: Tensor) -> Tensor:
    """Compute Pearson's correlation of each row of a matrix with that of another."""
    a, b = _centred(a), _centred(b)
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (lengths + 1e-8)


def _centred(rows: Tensor) -> Tensor:
    """Subtract the mean of each row; a row of numbers that are equal up to rounding becomes 0, without a gradient."""
    differences = rows - rows.mean(dim=1, keepdim=True)
    rounding = 16 * torch.finfo(rows.dtype).eps * rows.detach().abs().amax(dim=1, keepdim=True)
    equal = differences.detach().abs().amax(dim=1, keepdim=True) <= rounding
    return differences.masked_fill(equal, 0.0)
