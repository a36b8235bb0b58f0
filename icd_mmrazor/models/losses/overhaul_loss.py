"""Overhaul of feature distillation (OFD)."""

import math

import torch
from mmrazor.models.losses import OFDLoss
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss

# below this probability of a negative value, three deviations are its margin, as published
RARE = 0.001


@MODELS.register_module()
class OverhaulLoss(FeatureLoss):
    """A comprehensive overhaul of feature distillation (OFD), ICCV 2019, arXiv 1904.01866.

    Maps are compared before their last activation. A positive value of the teacher is a target. A negative one only
    has to be negative: its target is raised to the channel's margin, and the student pays only above it. The margin is
    the mean of the negative values of the channel, by the bias and the scale of the batch norm before the activation,
    which are taken for the mean and the deviation of a normal distribution. In a ResNet that is the norm of the
    residual branch, before the shortcut is added, as the authors have it.

    The loss is mmrazor's ``OFDLoss``, which is the published one: summed over a map, over the batch size and
    ``divisor``. Its ``OFDDistiller`` takes the margin from a recorded batch norm, which a ResNet does not have at the
    end of a stage. The authors keep the batch norms of the teacher in training mode; here they are in eval mode. If the
    sizes of the maps differ, the larger one is averaged.

    Args:
        teacher_norm: The batch norm before the last activation of the teacher's stage. A ``FeatureDistiller`` finds it.
        divisor: Divides the sum; the authors have 1000 on CIFAR, 10000 on ImageNet.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range, or there is no such norm.

    Config example::

        losses=dict(ofd=dict(
            loss=dict(type='OverhaulLoss'),
            features='preactivations',
            decay=0.5,
            student_connector=dict(type='PointwiseRegressor', initialization='fan_out')))
    """

    takes_maps = True
    same_width_by = 'PointwiseRegressor'
    margin: Tensor

    def __init__(self, teacher_norm: nn.Module | None, divisor: float = 1000.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.divisor = checks.positive(self, 'divisor', divisor)
        if not isinstance(teacher_norm, _BatchNorm):
            found = 'there is none' if teacher_norm is None else f'found a {type(teacher_norm).__name__}'
            raise SettingError(
                'OverhaulLoss: teacher_norm must be the batch norm right before the last activation of a stage of the '
                f'teacher, which its margin is computed from; {found}. Use a ResNet, wide ResNet or VGG with batch '
                'norm as the teacher, or another method.'
            )
        self.partial = OFDLoss(mul_factor=divisor)
        self.register_buffer('margin', margin_of(teacher_norm), persistent=False)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of two maps before their activation, ``B x C x H x W``."""
        if teacher.shape[1] != len(self.margin):
            raise SettingError(
                f'OverhaulLoss: teacher_norm has {len(self.margin)} channels, but the map has {teacher.shape[1]}. Give '
                'the norm of that map.'
            )
        margin = self.margin.to(teacher.dtype).view(1, -1, 1, 1)
        return self.partial(student, torch.maximum(teacher.detach(), margin))


def margin_of(norm: _BatchNorm) -> Tensor:
    """Return the mean of the negative values of each channel, by the parameters of its batch norm.

    A channel whose scale is 0 is constant: the authors' code divides by 0 there, here the margin is its limit.
    """
    with torch.no_grad():
        if norm.weight is None:
            scale, bias = torch.ones(norm.num_features), torch.zeros(norm.num_features)
        else:
            scale, bias = norm.weight.abs(), norm.bias
        dtype = torch.promote_types(scale.dtype, torch.float32)
        deviation, mean = scale.double().clamp(min=torch.finfo(torch.float32).tiny), bias.double()
        z = mean / deviation
        negative = torch.special.ndtr(-z)
        density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
        below = mean - deviation * density / negative.clamp(min=RARE)
        return torch.where(negative > RARE, below, -3 * deviation).to(dtype)
