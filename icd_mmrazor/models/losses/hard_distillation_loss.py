"""Distillation of the teacher's decision (hard distillation)."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import LogitLoss


@MODELS.register_module()
class HardDistillationLoss(LogitLoss):
    """Cross-entropy with the class that the teacher predicts, as in DeiT, ICML 2021, arXiv 2012.12877.

    Arguments and errors are those of :class:`LogitLoss`; the features are logits.

    Config example::

        losses=dict(hard=dict(loss=dict(type='HardDistillationLoss', loss_weight=0.5), features='logits'))
    """

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of logits, ``B x C`` both."""
        # 0; not finite if a logit of the teacher is not, which its decision would hide
        broken = (0 * teacher).sum()
        return F.cross_entropy(student, teacher.argmax(1)) + broken
