"""Decoupled knowledge distillation (DKD)."""

from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import LabelledLogitLoss
from icd_mmrazor.models.losses.functional import dkd


@MODELS.register_module()
class DecoupledKDLoss(LabelledLogitLoss):
    r"""Decoupled knowledge distillation (DKD, Zhao et al., CVPR 2022, arXiv 2203.08679).

    The divergence of knowledge distillation consists of two: that of the probability of the label's class against all
    others together, and that of the probabilities among the others. DKD weighs each by itself::

        tau**2 * (alpha * KL(label against rest) + beta * KL(among the others))

    Equal to the authors' code (megvii-research/mdistiller, commit a08d46f1), as mmrazor's ``DKDLoss`` is. Both take the
    logarithm of summed probabilities, which is infinite in float32 once the student's logit of the label, divided by
    ``tau``, is about 104 above all others or below the largest of them, and mmrazor's warns of an argument that torch
    has deprecated. Here, the logarithm is computed from the logits. The authors' warm-up is a ``weight_schedule`` of
    the entry.

    Args:
        tau: Temperature, which divides the logits.
        alpha: Weight of the label against the rest, 0 or greater.
        beta: Weight of the divergence among the other classes, 0 or greater.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example, with the authors' warm-up over 20 epochs::

        losses=dict(dkd=dict(
            loss=dict(type='DecoupledKDLoss', alpha=1.0, beta=8.0),
            features='logits',
            weight_schedule=dict(type='Linear', begin=0, end=20, start_factor=0.05)))
    """

    def __init__(self, tau: float = 4.0, alpha: float = 1.0, beta: float = 8.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = checks.positive(self, 'tau', tau)
        self.alpha = checks.not_negative(self, 'alpha', alpha)
        self.beta = checks.not_negative(self, 'beta', beta)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of logits ``B x C`` and the class of each image, ``B``."""
        return dkd(student, teacher, labels, self.alpha, self.beta, self.tau)
