"""Activation boundaries (AB)."""

from mmrazor.models.losses import ABLoss
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import FeatureLoss


@MODELS.register_module()
class ActivationBoundaryLoss(FeatureLoss):
    """Activation boundaries (AB), AAAI 2019, arXiv 1811.03233.

    The student's pre-activation must exceed the margin where the teacher's neuron is active, and stay below minus the
    margin elsewhere. What is missing is squared and summed over a map; the loss is 3 / 1000 of the mean over the batch,
    as in the benchmark. This is mmrazor's ``ABLoss`` in at least float32; a NaN of the teacher makes the loss NaN.
    Published on the pre-activation maps of all stages, in an initial stage of 30 epochs without other losses.

    Args:
        loss_weight: Weight of the loss.
        margin: The margin on either side of the boundary.

    Config example::

        distill_losses=dict(loss_ab=dict(type='ActivationBoundaryLoss'))
    """

    takes_maps = True
    same_width_by = 'ConvRegressor'

    def __init__(self, loss_weight: float = 1.0, margin: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.boundaries = ABLoss(margin=checks.finite(self, 'margin', margin))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute mmrazor's loss of two maps before their activation, ``B x C x H x W``."""
        # the loss only asks whether the teacher's values are positive
        return self.boundaries(student, teacher) + (0 * teacher).sum()
