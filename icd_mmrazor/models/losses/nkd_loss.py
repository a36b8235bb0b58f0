"""Normalized knowledge distillation (NKD)."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import LabelledLogitLoss
from icd_mmrazor.models.losses.functional import decoupled


@MODELS.register_module()
class NKDLoss(LabelledLogitLoss):
    r"""Normalized knowledge distillation (NKD, Yang et al., ICCV 2023, arXiv 2303.13005).

    Two cross-entropies: that of the label's class, weighted by the teacher's probability of it, and that of the other
    classes, whose probabilities are normalised to 1 without the label::

        -p_teacher[label] * log(p_student[label]) - gamma * tau**2 * sum(others, p_teacher * log(p_student))

    The temperature softens the second one only. Equal to the authors' code (yzd-v/cls_KD, commit 1e5d48f3). They are
    cross-entropies, not divergences: they are not 0 if student and teacher agree, and the first one draws the student's
    probability of the label towards 1. The class of an image that is mixed with another (Mixup, CutMix) is the one with
    the highest score, as released.

    Args:
        tau: Temperature of the classes other than the label. The authors use 3 on CIFAR-100, 1 on ImageNet.
        gamma: Weight of these classes, 0 or greater: 3.5 on CIFAR-100, 1.5 on ImageNet.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        losses=dict(nkd=dict(loss=dict(type='NKDLoss', tau=1.0, gamma=1.5), features='logits'))
    """

    reads_scores = True

    def __init__(self, tau: float = 3.0, gamma: float = 3.5, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = checks.positive(self, 'tau', tau)
        self.gamma = checks.not_negative(self, 'gamma', gamma)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of logits ``B x C`` and the class of each image, ``B``."""
        index = labels[:, None]
        of_label = teacher.softmax(dim=1).gather(1, index) * student.log_softmax(dim=1).gather(1, index)
        (_, student), (_, teacher) = (decoupled(logits / self.tau, labels) for logits in (student, teacher))
        of_others = F.cross_entropy(student, teacher.softmax(dim=1))
        return self.gamma * self.tau**2 * of_others - of_label.mean()
