"""Activation boundaries (AB)."""

from mmrazor.models.losses import ABLoss
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import FeatureLoss


@MODELS.register_module()
class ActivationBoundaryLoss(FeatureLoss):
    """Activation boundaries (AB), AAAI 2019, arXiv 1811.03233.

    Where the teacher's neuron is active, the student's, before its activation, is to be more than the margin, elsewhere
    less than minus the margin; what is missing is squared and summed. This is mmrazor's ``ABLoss``, in float32 at
    least, and with a NaN or an infinity of the teacher in the loss: mmrazor's takes it for a neuron that is not
    active. Published on the maps of all stages before their activation, in an initial stage of 30 epochs that has no
    other loss.

    Args:
        loss_weight: Weight of the loss.
        margin: By how much a neuron is to be on its side.

    Raises:
        SettingError: A setting is not a finite number.

    Config example::

        distill_losses=dict(loss_ab=dict(type='ActivationBoundaryLoss'))
    """

    takes_maps = True
    same_width_by = 'ConvRegressor'

    def __init__(self, loss_weight: float = 1.0, margin: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.boundaries = ABLoss(margin=self._finite('margin', margin))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute mmrazor's loss.

        Args:
            student: ``B x C x H x W``, before the activation.
            teacher: The same of the teacher.

        Returns:
            A scalar.
        """
        # the loss asks of the teacher only whether it is more than 0
        return self.boundaries(student, teacher) + (0 * teacher).sum()
