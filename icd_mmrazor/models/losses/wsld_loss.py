"""Weighted soft label distillation (WSLD)."""

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import LabelledLogitLoss


@MODELS.register_module()
class WeightedSoftLabelLoss(LabelledLogitLoss):
    r"""Weighted soft label distillation (WSLD, Zhou et al., ICLR 2021, arXiv 2102.00650).

    The cross-entropy with the teacher's softened probabilities, in which each image has a weight: near 1 where the
    student's cross-entropy with the label is large compared with the teacher's, and smaller the further the student is
    ahead of the teacher::

        weight = 1 - exp(-CE(student, label) / (CE(teacher, label) + 1e-7))
        tau**2 * mean(weight * CE(student / tau, softmax(teacher / tau)))

    No gradient flows through the weight. Equal to the authors' code (bellymonster/Weighted-Soft-Label-Distillation,
    commit 67820dd7), which works for 1000 classes only. mmrazor's ``WSLD`` gives the same numbers, but needs
    ``num_classes``, 1000 by default. Here, the number of classes is that of the logits.

    The authors' training leaves the teacher in training mode, so that its batch norms use the statistics of the batch,
    and drift; this is not reproduced.

    Args:
        tau: Temperature of the soft labels.
        loss_weight: Weight of the loss: 2.25 on CIFAR-100, 2.5 on ImageNet.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        losses=dict(wsld=dict(loss=dict(type='WeightedSoftLabelLoss', loss_weight=2.25), features='logits'))
    """

    def __init__(self, tau: float = 4.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = checks.positive(self, 'tau', tau)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of logits ``B x C`` and the class of each image, ``B``."""
        with torch.no_grad():
            own, of_teacher = (F.cross_entropy(logits, labels, reduction='none') for logits in (student, teacher))
            weights = -torch.expm1(-own / (of_teacher + 1e-7))
        soft = F.cross_entropy(student / self.tau, (teacher / self.tau).softmax(dim=1), reduction='none')
        return self.tau**2 * (weights * soft).mean()
