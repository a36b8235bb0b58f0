"""Redundancy suppression distillation (RSD)."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import deviations

# as released, added to the deviations
EPS = 1e-5


@MODELS.register_module()
class RSDLoss(FeatureLoss):
    """Redundancy suppression distillation (RSD, Zhang et al., ICCV 2025, arXiv 2507.21844).

    The correlations over the batch between the teacher's units and those of the student's projected feature, ``C``,
    a matrix ``D x D``, should be the identity: each unit matches its counterpart in the teacher, and no other::

        sum_i (C_ii - 1) ** 2 + kappa * sum_i!=j C_ij ** 2

    As released (VISION-SJTU/RSD, be825ae), this is a sum over the units, not a mean. The student's feature comes from
    an :class:`RSDProjector`. A unit that is constant in a batch gets no gradient; the release multiplies it by ``1e5``.
    A batch of one image gives 0. With several processes, each compares the images in its batch.

    Args:
        kappa: Weight of the correlations between different units, 0 or greater.
        loss_weight: Weight of the loss. The authors use 0.1.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(rsd=dict(
                loss=dict(type='RSDLoss', loss_weight=0.1),
                features='pooled',
                student_connector=dict(type='RSDProjector'))))
    """

    takes_embeddings = True
    same_width_by = 'RSDProjector'
    compares_images = True

    def __init__(self, kappa: float = 0.01, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.kappa = checks.not_negative(self, 'kappa', kappa)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of features ``B x D``, the student's after its projection."""
        if len(student) == 1:
            return (0 * student).sum()
        correlations = deviations(teacher, eps=EPS).T @ deviations(student, eps=EPS) / len(student)
        same = torch.eye(len(correlations), dtype=correlations.dtype, device=correlations.device)
        return ((correlations - same).square() * (same + self.kappa * (1 - same))).sum()
