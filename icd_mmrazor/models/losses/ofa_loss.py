"""The loss of OFA-KD between logits, with an adaptive target."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import LabelledLogitLoss


@MODELS.register_module()
class OFALoss(LabelledLogitLoss):
    """The adaptive-target loss of one-for-all KD (OFA-KD, Hao et al., arXiv 2310.19444, NeurIPS 2023), on the logits.

    The target of the label's class is raised where the teacher is sure of it. With ``p = softmax(teacher / tau)``, ``q
    = softmax(student / tau)`` and the one-hot label ``h``::

        loss = mean_i sum_c -((p_ic + h_ic) ** eps - h_ic) log q_ic

    The paper calls ``eps`` gamma. With ``eps=1``, the default of the release (Hao840/OFAKD, commit f7bb896) and its
    setting on CIFAR-100, the label cancels, and the loss is the cross-entropy with the teacher's probabilities; its
    setting on ImageNet is 1.5. No square of the temperature multiplies the loss, and it is not 0 for a student equal to
    its teacher. The loss is that of the release, but stays finite where its softmax underflows to 0.

    This is one part of OFA-KD. In full, each of four stages of the student gets a head of its own, and the same loss
    between the logits of that head and those of the teacher.

    A ``FeatureDistiller`` takes a mixed image (Mixup) for one of the class with the highest score.

    Args:
        eps: Power of the target, ``> 0``.
        tau: Temperature, which divides the logits.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range, or an image has no label.

    Config example::

        losses=dict(ofa=dict(loss=dict(type='OFALoss', eps=1.5), features='logits'))
    """

    reads_scores = True

    def __init__(self, eps: float = 1.0, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.eps = checks.positive(self, 'eps', eps)
        self.tau = checks.positive(self, 'tau', tau)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of logits, ``B x C`` both, and the class of each image, ``B``."""
        # F.one_hot waits for the device
        label = torch.zeros_like(student).scatter_(1, labels[:, None], 1.0)
        targets = ((teacher / self.tau).softmax(dim=1) + label) ** self.eps - label
        return -(targets * (student / self.tau).log_softmax(dim=1)).sum(dim=1).mean()
