"""Attention transfer (AT)."""

from mmrazor.models.losses import ATLoss
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import FeatureLoss


@MODELS.register_module()
class AttentionTransferLoss(FeatureLoss):
    """Attention transfer (AT), "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928.

    The attention of a map is the mean of its squares over the channels, normalised over the pixels; the loss is the
    mean squared difference of two attentions. This is mmrazor's ``ATLoss`` in at least float32, also for maps of
    different sizes. Published on the maps of all stages, with weight 1000. Arguments and errors are those of
    :class:`FeatureLoss`.

    Config example::

        distill_losses=dict(loss_at=dict(type='AttentionTransferLoss', loss_weight=1000.0))
    """

    takes_maps = True

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.attention = ATLoss()

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute mmrazor's loss of maps ``B x C_s x H x W`` and ``B x C_t x H x W``."""
        return self.attention(student, teacher)
