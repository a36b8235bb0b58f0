"""Similarity-preserving distillation (SP)."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import unit_vectors


@MODELS.register_module()
class SPLoss(FeatureLoss):
    """Similarity-preserving distillation (SP), ICCV 2019, arXiv 1907.09682.

    The similarities of an image to all images of the batch are the dot products of their flattened features, normalised
    to length 1; the loss is the mean squared difference between the student's and the teacher's. The features may
    differ in every size. Published on the last map, with weight 3000. Arguments and errors are those of
    :class:`FeatureLoss`.

    Config example::

        distill_losses=dict(loss_sp=dict(type='SPLoss', loss_weight=3000.0))
    """

    compares_images = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of features ``B x D_s`` and ``B x D_t``."""
        return F.mse_loss(unit_vectors(student @ student.T), unit_vectors(teacher @ teacher.T))
