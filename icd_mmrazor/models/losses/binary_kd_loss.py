"""Knowledge distillation of each class by itself (binary KD), for images with several labels."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss


@MODELS.register_module()
class BinaryKDLoss(FeatureLoss):
    r"""Knowledge distillation with a sigmoid for each class, instead of one softmax over all of them.

    The probability that a class is in the image, :math:`\sigma(z_c / \tau)`, of the student should be that of the
    teacher. The loss is the divergence of the two, which is binary cross-entropy less the teacher's entropy, times
    :math:`\tau^2`, averaged over the images. With ``tau=1`` and the sum over the classes, it is the multi-label logits
    distillation (MLD) of L2D, ICCV 2023, arXiv 2308.06453, which gives it the weight 10.

    Args:
        tau: Temperature, which divides the logits.
        reduction: What is done over the classes: ``'sum'``, as in the loss of mmpretrain's multi-label heads, or
            ``'mean'``.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: An argument is out of range, or student and teacher differ in their classes.

    Config example::

        distiller=dict(type='ICDDistiller', kd=dict(type='BinaryKDLoss', tau=1.0, loss_weight=10.0))
    """

    takes_embeddings = True

    def __init__(self, tau: float = 1.0, reduction: str = 'sum', loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = checks.positive(self, 'tau', tau)
        self.reduction = checks.one_of(self, 'reduction', reduction, ('sum', 'mean'))

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:  # noqa: N803 (named as in mmrazor's KLDivergence)
        """Compute the loss of a batch, a scalar.

        Args:
            preds_S: The student's logits, ``B x C``.
            preds_T: The teacher's logits of the same images; they get no gradient.

        Raises:
            SettingError: The two cannot be compared.
        """
        return super().forward(preds_S, preds_T.detach())

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of logits ``B x C`` without its weight."""
        self.check_shapes(student.shape[1:], teacher.shape[1:])
        student, teacher = student / self.tau, teacher / self.tau
        present = F.kl_div(F.logsigmoid(student), F.logsigmoid(teacher), reduction='none', log_target=True)
        absent = F.kl_div(F.logsigmoid(-student), F.logsigmoid(-teacher), reduction='none', log_target=True)
        divergence = present + absent
        over_classes = divergence.sum(1) if self.reduction == 'sum' else divergence.mean(1)
        return self.tau**2 * over_classes.mean()

    def check_shapes(self, preds_S: tuple[int, ...], preds_T: tuple[int, ...]) -> None:  # noqa: N803
        """Refuse logits of different classes, given their shapes without the batch."""
        if tuple(preds_S) != tuple(preds_T):
            raise SettingError(
                f'BinaryKDLoss compares logits of the same classes, but the student has {tuple(preds_S)} and the '
                f'teacher {tuple(preds_T)}. Use a teacher of the same classes.'
            )
