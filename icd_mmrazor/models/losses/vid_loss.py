"""Variational information distillation (VID)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss

MIN_VARIANCE = 1e-5


@MODELS.register_module()
class VIDLoss(FeatureLoss):
    """Variational information distillation (VID), CVPR 2019, arXiv 1904.05835.

    The negative logarithm, without its constant, of the teacher's map under a Gaussian whose mean is the student's map
    through :class:`VIDRegressor`, with one learned variance per channel, ``softplus(log_scale) + 1e-5``. Published on
    the maps of all stages, with weight 1.

    Args:
        teacher_shape: Shape of the teacher's map, ``(C, H, W)``, or only ``(C,)``.
        init_variance: Initial variance, more than ``1e-5``.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: The shape is invalid, or the variance out of range.

    Config example, for a teacher's map of 64 channels::

        distill_losses=dict(loss_vid=dict(type='VIDLoss', teacher_shape=(64,)))
    """

    takes_maps = True
    same_width_by = 'VIDRegressor'

    def __init__(self, teacher_shape: Sequence[int], init_variance: float = 5.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        channels, *_ = checks.shape(self, 'teacher_shape', teacher_shape, dims=(1, 3))
        excess = checks.finite(self, 'init_variance', init_variance) - MIN_VARIANCE
        if excess <= 0:
            raise SettingError(f'VIDLoss: init_variance={init_variance} must be more than {MIN_VARIANCE}.')
        # the inverse of softplus, written so that nothing overflows
        self.log_scale = nn.Parameter(torch.full((channels,), excess + math.log(-math.expm1(-excess))))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of the student's map through its connector and the teacher's, ``B x C x H x W`` each."""
        if teacher.shape[1] != len(self.log_scale):
            raise SettingError(
                f'VIDLoss: teacher_shape={(len(self.log_scale),)}, but the map has {teacher.shape[1]} channels. Set '
                "teacher_shape to the shape of the teacher's map."
            )
        variance = F.softplus(self.log_scale).view(1, -1, 1, 1) + MIN_VARIANCE
        return 0.5 * ((student - teacher).square() / variance + variance.log()).mean()
