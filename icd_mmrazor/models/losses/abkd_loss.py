"""Knowledge distillation by the alpha-beta divergence (ABKD)."""

from typing import Any

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import LabelledLogitLoss, LogitLoss
from icd_mmrazor.models.losses.functional import decoupled, softmax_divergence

# below, the differences of the formula are lost in rounding
SMALLEST = 1e-6


@MODELS.register_module()
class ABKDLoss(LogitLoss):
    r"""Knowledge distillation by the alpha-beta divergence (ABKD, Wang et al., arXiv 2505.04560, ICML 2025).

    With ``p = softmax(gamma * teacher / tau)`` and ``q = softmax(student / tau)``, the mean over the images of::

        -1 / (alpha * beta) * sum_c [p_c ** alpha * q_c ** beta
                                     - alpha / (alpha + beta) * p_c ** (alpha + beta)
                                     - beta / (alpha + beta) * q_c ** (alpha + beta)]

    ``alpha=1, beta=0`` is ``KL(p || q)``, ``alpha=0, beta=1`` is ``KL(q || p)``, and ``alpha=beta=0.5`` four times the
    squared Hellinger distance. As released (ghwang-s/abkd, commit df81318), no square of the temperature multiplies the
    loss. Two of its variants in the release are settings of this loss:

    * ABLSD, with logit standardisation, has ``tau ** 2``: multiply ``loss_weight`` by it, and set ``standardize=True``
      in the entry of ``losses``;
    * ABTTM softens the teacher alone: ``tau=1``, and ``gamma`` is that of TTM.

    ABDKD is another class, :class:`ABDKDLoss`.

    Where ``alpha``, ``beta`` or their sum is 0, the paper extends the formula by continuity. The release, and so this
    loss, gives ``alpha`` times that limit for ``beta=0`` and for ``alpha + beta=0``, and ``beta`` times that limit for
    ``alpha=0``. The two KL divergences are not affected, and none of the published settings is. In the release's ABLSD,
    ABDKD and ABTTM, any zero but ``alpha=1, beta=0`` is a division by zero.

    Args:
        alpha: Power of the teacher's probabilities. With a negative one the loss is large where networks are sure.
        beta: Power of the student's probabilities, likewise.
        tau: Temperature, which divides the logits of both networks.
        gamma: Factor of the teacher's logits.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        losses=dict(abkd=dict(
            loss=dict(type='ABKDLoss', alpha=0.8, beta=0.3, tau=4.0, loss_weight=32.0),
            features='logits'))
    """

    shown_if_changed = ('gamma',)

    def __init__(
        self, alpha: float = 0.8, beta: float = 0.3, tau: float = 4.0, gamma: float = 1.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        self.alpha, self.beta = _checked_powers(self, alpha, beta)
        self.tau = checks.positive(self, 'tau', tau)
        self.gamma = checks.positive(self, 'gamma', gamma)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of logits, ``B x C`` both."""
        return alpha_beta_divergence(student / self.tau, self.gamma * teacher / self.tau, self.alpha, self.beta)


@MODELS.register_module()
class ABDKDLoss(LabelledLogitLoss):
    """DKD whose second part, among the classes that are not the label's, is an alpha-beta divergence (ABDKD).

    With the parts of DKD (arXiv 2203.08679), the first of which stays a KL divergence::

        loss = tau ** 2 * (dkd_alpha * target class against all others + dkd_beta * alpha-beta among the others)

    As released with ABKD, ``tau ** 2`` multiplies it, and its weight rises over the first 20 epochs.

    Args:
        alpha, beta: Same as in :class:`ABKDLoss`.
        dkd_alpha, dkd_beta: Weights of the two parts, 0 or greater.
        tau: Temperature, which divides the logits.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range, or an image has no label.

    Config example::

        losses=dict(abdkd=dict(
            loss=dict(type='ABDKDLoss'),
            features='logits',
            weight_schedule=dict(type='Linear', begin=0, end=20, start_factor=0.05)))
    """

    def __init__(
        self,
        alpha: float = 0.8,
        beta: float = 0.3,
        dkd_alpha: float = 1.0,
        dkd_beta: float = 8.0,
        tau: float = 4.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.alpha, self.beta = _checked_powers(self, alpha, beta)
        self.dkd_alpha = checks.not_negative(self, 'dkd_alpha', dkd_alpha)
        self.dkd_beta = checks.not_negative(self, 'dkd_beta', dkd_beta)
        self.tau = checks.positive(self, 'tau', tau)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of logits, ``B x C`` both, and the class of each image, ``B``."""
        s_target, s_others = decoupled(student / self.tau, labels)
        t_target, t_others = decoupled(teacher / self.tau, labels)
        target = softmax_divergence(s_target, t_target)
        others = alpha_beta_divergence(s_others, t_others, self.alpha, self.beta)
        return self.tau**2 * (self.dkd_alpha * target + self.dkd_beta * others)


def alpha_beta_divergence(student: Tensor, teacher: Tensor, alpha: float, beta: float) -> Tensor:
    """Compute the alpha-beta divergence between the softmaxes of logits, as released with ABKD.

    Args:
        student: Logits of the student, ``B x C``.
        teacher: Logits of the teacher.
        alpha: Power of the teacher's probabilities.
        beta: Power of the student's probabilities.

    Returns:
        The mean over the images, a scalar.
    """
    log_q, log_p = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    both = alpha + beta
    if alpha == beta == 0:
        terms = (log_q - log_p).square() / 2
    elif alpha == 0:
        q, p = (beta * log_q).exp(), (beta * log_p).exp()
        terms = (q * beta * (log_q - log_p) - q + p) / beta
    elif beta == 0:
        q, p = (alpha * log_q).exp(), (alpha * log_p).exp()
        terms = (p * alpha * (log_p - log_q) - p + q) / alpha
    elif both == 0:
        ratio = alpha * (log_p - log_q)
        terms = (torch.expm1(ratio) - ratio) / alpha
    else:
        mixed = (alpha * log_p + beta * log_q).exp()
        terms = (alpha / both * (both * log_p).exp() + beta / both * (both * log_q).exp() - mixed) / (alpha * beta)
    return terms.sum(dim=1).mean()


def _checked_powers(owner: Any, alpha: Any, beta: Any) -> tuple[float, float]:
    """Check the powers; what is 0 up to rounding, as 1.1 - 0.8 - 0.3 is, becomes 0."""
    checks.finite(owner, 'alpha', alpha)
    checks.finite(owner, 'beta', beta)
    alpha, beta = (0 if abs(power) < SMALLEST else power for power in (alpha, beta))
    if abs(alpha + beta) < SMALLEST:
        beta = -alpha
    # the release divides these limits by one of the two, not by its square
    factor = beta if alpha == 0 else alpha
    if 0 in (alpha, beta, alpha + beta) and factor < 0:
        raise SettingError(
            f'{type(owner).__name__}: alpha={alpha} and beta={beta} make the loss negative: where one of them or their '
            'sum is 0, the released formula has the sign of alpha, or of beta if alpha is 0. Make that one positive.'
        )
    return alpha, beta
