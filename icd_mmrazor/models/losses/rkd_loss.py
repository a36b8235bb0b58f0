"""Relational knowledge distillation (RKD)."""

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import unit_vectors

# as published: of two images at least, or the gradient of the square root would be infinite
MIN_SQUARED_DISTANCE = 1e-12


@MODELS.register_module()
class RKDLoss(FeatureLoss):
    """Relational knowledge distillation (RKD), CVPR 2019, arXiv 1904.05068.

    The smooth L1 difference between student and teacher of the distances of all pairs (divided by their mean) and of
    the cosines of the angles of all triples of a batch. The widths may differ. Published on the pooled features, with
    weight 1. mmrazor's ``DistanceWiseRKD`` and ``AngleWiseRKD`` without their normalisation have the same formulas, but
    make the host wait for the GPU, and have gradients of ``1e12`` if two images share a feature.

    Args:
        loss_weight, distance_weight, angle_weight: Weights of the whole loss and of its two parts.

    Config example::

        distill_losses=dict(loss_rkd=dict(type='RKDLoss'))
    """

    compares_images = True

    def __init__(self, loss_weight: float = 1.0, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__(loss_weight)
        self.distance_weight = checks.finite(self, 'distance_weight', distance_weight)
        self.angle_weight = checks.finite(self, 'angle_weight', angle_weight)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of features ``B x D_s`` and ``B x D_t``; a batch of one image has no pairs and gives 0."""
        if len(student) == 1:
            return (0 * student).sum()
        distances = F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))
        angles = F.smooth_l1_loss(_angles(student), _angles(teacher))
        return self.distance_weight * distances + self.angle_weight * angles


def _relative_distances(feature: Tensor) -> Tensor:
    """Return the distances of all pairs over their mean, ``B x B``."""
    squares = feature.square().sum(dim=1)
    squared = (squares[:, None] + squares - 2 * feature @ feature.T).clamp(min=MIN_SQUARED_DISTANCE)
    images = len(feature)
    # the distance of an image to itself is 0, whatever rounding says
    distances = squared.sqrt() * (1 - torch.eye(images, dtype=feature.dtype, device=feature.device))
    return distances * (images * (images - 1) / distances.sum())


def _angles(feature: Tensor) -> Tensor:
    """Return the cosines of the angles of all triples, ``B x B x B``; at an image itself, 0."""
    directions = unit_vectors(feature - feature[:, None], dim=2)
    return directions @ directions.mT
