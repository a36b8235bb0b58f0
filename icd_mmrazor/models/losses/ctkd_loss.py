"""Curriculum temperature for knowledge distillation (CTKD)."""

import math

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import LabelledLogitLoss, LogitLoss
from icd_mmrazor.models.losses.functional import dkd, kd


@MODELS.register_module()
class CTKDLoss(LogitLoss):
    """KD with a learned temperature (CTKD, Li et al., arXiv 2211.16231, AAAI 2023).

    One number ``theta`` is learned with the student, but against it: it climbs the loss, gently in the first epochs::

        T = t_start + t_end * sigmoid(theta)
        loss = T ** 2 * mean_i KL(softmax(teacher_i / T) || softmax(student_i / T))
        gradient of theta = -strength * d loss / d theta
        strength = (1 - cos(pi * min(epoch / ramp_epochs, 1))) / 2        epochs from 1

    This is the global form, whose code and results are published (zhengli97/CTKD, commit 7d52522). ``theta`` starts at
    1, and ``T`` at 15.6. As released, the optimizer of the student trains ``theta``, with the same weight decay, which
    pulls ``theta`` to 0 and ``T`` to 11. The release reverses the gradient by a factor that falls from 0 to -1; that is
    the same. It keeps ``theta`` outside of DDP, so that each of its processes learns a temperature of its own; here it
    is a parameter like any other, and all processes share one. The temperature of each image, the paper's other form,
    needs a network that is not in the release.

    The divergence is computed in float64: its derivative by ``T`` is the small difference of two large numbers.

    Args:
        ramp_epochs: Epochs until the gradient of ``theta`` counts in full.
        t_start: Lower limit of the temperature, ``> 0``.
        t_end: What is added to it at most, so the upper limit is ``t_start + t_end``.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range, or nothing has told the loss the epoch (:meth:`set_progress`).

    Attributes:
        terms (dict[str, Tensor]): ``tau``, the temperature of the last forward pass, for the log.

    Config example, in a ``FeatureDistiller``, which ``LossScheduleHook`` tells the epoch::

        losses=dict(ctkd=dict(loss=dict(type='CTKDLoss', loss_weight=0.9), features='logits'))
    """

    counts_epochs = True
    factor: Tensor

    def __init__(
        self, ramp_epochs: int = 10, t_start: float = 1.0, t_end: float = 20.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        self.ramp_epochs = checks.positive_int(self, 'ramp_epochs', ramp_epochs)
        self.t_start = checks.positive(self, 't_start', t_start)
        self.t_end = checks.positive(self, 't_end', t_end)
        self.theta = nn.Parameter(torch.tensor(1.0))
        # a buffer, so that a compiled graph stays as it is; not in checkpoints: it follows from the epoch
        self.register_buffer('factor', torch.tensor(0.0), persistent=False)
        self.epoch_is_known = False
        self.terms: dict[str, Tensor] = {}

    def set_progress(self, epoch: int, iteration: int) -> None:  # noqa: ARG002 (the same for all that is told)
        """Set how strongly ``theta`` is trained in an epoch, counted from 0; an iteration is not read."""
        ramp = min((epoch + 1) / self.ramp_epochs, 1)
        self.factor.fill_((math.cos(math.pi * ramp) - 1) / 2)
        self.epoch_is_known = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of logits, ``B x C`` both."""
        return kd(student.double(), teacher.double(), self._temperature()).to(student.dtype)

    def _temperature(self) -> Tensor:
        """Return the temperature in float64; the gradient of ``theta`` through it is multiplied by the factor."""
        if not self.epoch_is_known:
            raise SettingError(
                f'{type(self).__name__}: its temperature depends on the epoch, which nothing tells it. Use a '
                "FeatureDistiller with default_hooks=dict(loss_schedule=dict(type='LossScheduleHook')), or call "
                'set_progress(epoch, iteration) in your own loop.'
            )
        theta, factor = self.theta.double(), self.factor.double()
        # the value of theta and its gradient times the factor
        theta = theta.detach() + factor * (theta - theta.detach())
        tau = self.t_start + self.t_end * theta.sigmoid()
        self.terms = {'tau': tau.detach().to(self.theta.dtype)}
        return tau


@MODELS.register_module()
class CTKDDKDLoss(LabelledLogitLoss, CTKDLoss):
    """DKD (arXiv 2203.08679) with the learned temperature of CTKD.

    As in the release of CTKD; its own code gets a NaN for the gradient of the temperature in current versions of torch,
    where it masks the class of the label. Here that class is left out.

    Args:
        alpha: Weight of the divergence between the probabilities of the label's class and of all others together.
        beta: Weight of the divergence between the probabilities among the other classes.
        ramp_epochs, t_start, t_end: Same as in :class:`CTKDLoss`.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: Same as in :class:`CTKDLoss`, or an image has no label.

    Config example::

        losses=dict(ctkd=dict(loss=dict(type='CTKDDKDLoss'), features='logits'))
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 2.0,
        ramp_epochs: int = 10,
        t_start: float = 1.0,
        t_end: float = 20.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(ramp_epochs=ramp_epochs, t_start=t_start, t_end=t_end, loss_weight=loss_weight)
        self.alpha = checks.not_negative(self, 'alpha', alpha)
        self.beta = checks.not_negative(self, 'beta', beta)

    def compare(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of logits, ``B x C`` both, and the class of each image, ``B``."""
        tau = self._temperature()
        return dkd(student.double(), teacher.double(), labels, self.alpha, self.beta, tau).to(student.dtype)
