"""Distillation of the teacher's decision (hard distillation)."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss


@MODELS.register_module()
class HardDistillationLoss(FeatureLoss):
    """Cross-entropy with the class that the teacher predicts, as in DeiT, ICML 2021, arXiv 2012.12877.

    Arguments and errors are those of :class:`FeatureLoss`; the features are logits.

    Config example::

        losses=dict(hard=dict(loss=dict(type='HardDistillationLoss', loss_weight=0.5), features='logits'))
    """

    # as many classes
    same_width_by = 'LinearProjection'

    def check_shapes(self, s_feature: tuple[int, ...], t_feature: tuple[int, ...]) -> None:
        """Refuse logits of different numbers of classes.

        Raises:
            SettingError: They differ.
        """
        if s_feature != t_feature or len(s_feature) != 1:
            raise SettingError(
                f'HardDistillationLoss compares logits of the same classes; the student has {s_feature}, the teacher '
                f'{t_feature}. Use a teacher of the same classes.'
            )

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of logits, ``B x C`` both."""
        # 0; not finite if a logit of the teacher is not, which its decision would hide
        broken = (0 * teacher).sum()
        return F.cross_entropy(student, teacher.argmax(1)) + broken
