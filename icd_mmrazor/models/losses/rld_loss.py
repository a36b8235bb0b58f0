"""Refined logit distillation (RLD)."""

from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import LabelledLogitLoss
from icd_mmrazor.models.losses.functional import decoupled, softmax_divergence, without


@MODELS.register_module()
class RLDLoss(LabelledLogitLoss):
    r"""Refined logit distillation (RLD, Sun et al., ICCV 2025, arXiv 2408.07703).

    It corrects the teacher where it is wrong, in two terms:

    * Sample confidence: the student should be as sure of the label as the teacher is of the class that it predicts,
      whichever that is. The divergence of this class, or the label, against all others together, at ``confidence_tau``.
    * Masked correlation: the divergence among the classes whose logit in the teacher is below that of the label, at
      ``tau``. The label and everything that the teacher places above it, or level with it, is left out. An image for
      which no class or one is left adds nothing.

    ``alpha`` and ``beta`` weigh them; each is multiplied by its temperature squared. Where the teacher is right and the
    temperatures are equal, this is DKD. Equal to the authors' code (zju-SWJ/RLD, commit d54578fd). The two forms that
    it offers differ in ``confidence_tau``: 1 by its configs, the default here, and ``tau`` by the command in its README
    (``--same-t``). It is not known which one gave the paper's tables. The authors' warm-up is a ``weight_schedule`` of
    the entry.

    Args:
        tau: Temperature of the masked correlation.
        confidence_tau: Temperature of the sample confidence.
        alpha: Weight of the sample confidence, 0 or greater.
        beta: Weight of the masked correlation, 0 or greater.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example, with the authors' warm-up over 20 epochs::

        losses=dict(rld=dict(
            loss=dict(type='RLDLoss', alpha=1.0, beta=8.0),
            features='logits',
            weight_schedule=dict(type='Linear', begin=0, end=20, start_factor=0.05)))
    """

    def __init__(
        self,
        tau: float = 4.0,
        confidence_tau: float = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.tau = checks.positive(self, 'tau', tau)
        self.confidence_tau = checks.positive(self, 'confidence_tau', confidence_tau)
        self.alpha = checks.not_negative(self, 'alpha', alpha)
        self.beta = checks.not_negative(self, 'beta', beta)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of logits ``B x C`` and the class of each image, ``B``."""
        # one class against all others together: the label, and what the teacher predicts
        of_student, _ = decoupled(student / self.confidence_tau, labels)
        of_teacher, _ = decoupled(teacher / self.confidence_tau, teacher.argmax(dim=1))
        confidence = softmax_divergence(of_student, of_teacher)
        left_out = teacher >= teacher.gather(1, labels[:, None])
        correlation = softmax_divergence(*(without(logits / self.tau, left_out) for logits in (student, teacher)))
        return self.alpha * self.confidence_tau**2 * confidence + self.beta * self.tau**2 * correlation
