"""Transformed teacher matching (TTM), also weighted (WTTM)."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import LogitLoss


@MODELS.register_module()
class TTMLoss(LogitLoss):
    """Transformed teacher matching (TTM, Zheng and Yang, arXiv 2402.11148, ICLR 2024), or its weighted form (WTTM).

    KD whose temperature softens the teacher alone. With ``p = softmax(gamma * teacher)`` and ``q = softmax(student)``::

        TTM = mean_i KL(p_i || q_i)
        WTTM = mean_i U_i KL(p_i || q_i)        U_i = sum_c softmax(teacher_i)_c ** gamma

    ``U`` is large for images of which the teacher is unsure, at most ``C ** (1 - gamma)``. As released (zkxufo/TTM,
    commit fe457b3), no square of the temperature multiplies the loss, so the published weights are large for TTM and
    smaller for WTTM. For ``gamma < 1`` a student equal to its teacher has a loss and a gradient.

    Args:
        gamma: Factor of the teacher's logits, the inverse of a temperature, ``> 0``.
        weighted: Whether it is WTTM.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example, WTTM::

        losses=dict(wttm=dict(
            loss=dict(type='TTMLoss', gamma=0.1, weighted=True, loss_weight=3.0),
            features='logits'))
    """

    def __init__(self, gamma: float = 0.1, weighted: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.gamma = checks.positive(self, 'gamma', gamma)
        self.weighted = checks.boolean(self, 'weighted', weighted)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of logits, ``B x C`` both."""
        # the powers of the teacher's probabilities; divided by their sum, they are the softened ones
        log_powers = self.gamma * teacher.log_softmax(dim=1)
        divergences = F.kl_div(
            student.log_softmax(dim=1), log_powers.log_softmax(dim=1), reduction='none', log_target=True
        ).sum(dim=1)
        if self.weighted:
            divergences = log_powers.logsumexp(dim=1).exp() * divergences
        return divergences.mean()
