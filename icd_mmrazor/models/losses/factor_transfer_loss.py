"""Factor transfer (FT)."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import FeatureLoss


@MODELS.register_module()
class FactorTransferLoss(FeatureLoss):
    """Factor transfer (FT), "Paraphrasing Complex Network", NeurIPS 2018, arXiv 1802.04977, as in the benchmark.

    The mean absolute difference between two factors, each reduced to the mean of its squares over the channels and
    normalised over the pixels. mmrazor's ``FTLoss`` normalises the whole factor instead, and gives another value.
    Published on the last map, the teacher's through :class:`FTParaphraser` and the student's through
    :class:`FTTranslator`, with weight 200. Arguments and errors are those of :class:`FeatureLoss`.

    Config example::

        distill_losses=dict(loss_ft=dict(type='FactorTransferLoss', loss_weight=200.0))
    """

    takes_maps = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of factors ``B x C_s x H x W`` and ``B x C_t x H x W``."""
        s_factor, t_factor = (F.normalize(m.square().mean(1).flatten(1)) for m in (student, teacher))
        return F.l1_loss(s_factor, t_factor)
