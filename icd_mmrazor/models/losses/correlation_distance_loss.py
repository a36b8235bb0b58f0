"""Distances of correlations between predictions (R2KD)."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import LogitLoss

EPS = 1e-8


@MODELS.register_module()
class CorrelationDistanceLoss(LogitLoss):
    r"""Correlation distance of the student's probabilities from the teacher's (R2KD, Kim et al., arXiv 2311.13934).

    With the matrices of the probabilities at a temperature, images x classes, and the cosine of two vectors, which is
    their correlation without centring::

        tau**2 * ((1 - mean cosine of the rows) + (1 - mean cosine of the columns))

    The rows are the classes of an image, the columns the images of a batch for one class. ``1e-8`` is added to the
    product of the lengths, so that equal logits give a small number instead of 0. This is the value distance as
    released (Seonghak35/R2KD, commit ece240e). DIST (:class:`PearsonCorrelationLoss`) has the same form, with Pearson's
    correlation.

    The release adds a second distance, of the ranks of the classes: 1 minus Spearman's correlation, for each image. It
    sorts the logits, so it has no gradient there, and teaches nothing. Here, it is logged.

    With several processes, the columns are those of the batch of one process, as released, unless the entry of
    ``losses`` has ``gather_distributed=True``. A batch of one image learns from its row alone.

    Args:
        tau: Temperature of the probabilities.
        loss_weight: Weight of the loss; 2 as released.

    Raises:
        SettingError: A setting is out of range.

    Attributes:
        terms (dict[str, Tensor]): ``rank``, the rank distance of the last forward pass, from 0 to 2, for the log.

    Config example::

        losses=dict(r2kd=dict(loss=dict(type='CorrelationDistanceLoss', loss_weight=2.0), features='logits'))
    """

    def __init__(self, tau: float = 4.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = checks.positive(self, 'tau', tau)
        self.terms: dict[str, Tensor] = {}

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of logits ``B x C``."""
        self.terms = {'rank': rank_distance(student.detach(), teacher)}
        student, teacher = ((logits / self.tau).softmax(dim=1) for logits in (student, teacher))
        of_images = 1 - _cosines(student, teacher).mean()
        of_classes = 1 - _cosines(student.T, teacher.T).mean()
        return self.tau**2 * (of_images + of_classes)


def rank_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute 1 minus Spearman's correlation of the logits of each image, ``B x C``, and average over the images.

    Equal logits are ranked in any order. As released, ranks are divided by their sum before ``1e-8`` is added to the
    product of the lengths, which changes the textbook value by up to a millionth.
    """
    ranks = [logits.argsort(dim=1).argsort(dim=1).to(student.dtype) + 1 for logits in (student, teacher)]
    shares = [rank / rank[0].sum() for rank in ranks]
    centred = [share - share.mean(dim=1, keepdim=True) for share in shares]
    return 1 - _cosines(*centred).mean()


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Compute the cosine of each row of a matrix with that of another."""
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (lengths + EPS)
