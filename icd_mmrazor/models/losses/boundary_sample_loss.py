"""Loss on images that support the teacher's decision boundary."""

from collections.abc import Callable
from typing import Any

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.weight_schedule import ScheduledWeight, WeightSchedule
from icd_mmrazor.models.losses.functional import full_precision

SMALL = 1e-4  # the part of a step that is left on the boundary


def base_samples(student: Tensor, teacher: Tensor, labels: Tensor, at_most: int) -> Tensor:
    """Choose the images to attack: those that both networks classify correctly.

    If there are more than ``at_most``, those whose probabilities of the other classes differ most, by the sum of
    squares.

    Args:
        student: Logits, ``B x C``.
        teacher: Logits, ``B x C``.
        labels: The classes, ``B``.
        at_most: How many.

    Returns:
        Their positions in the batch.
    """
    right = (student.argmax(1) == labels) & (teacher.argmax(1) == labels)
    chosen = right.nonzero().flatten()
    if len(chosen) <= at_most:
        return chosen
    differences = (teacher[chosen].softmax(1) - student[chosen].softmax(1)).square()
    score = differences.sum(1) - differences.gather(1, labels[chosen, None]).squeeze(1)
    return chosen[score.argsort(descending=True)[:at_most]]


def target_classes(teacher: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw the class that each attack is to reach, by the teacher's probabilities without those of its first class.

    Args:
        teacher: Logits, ``B x C``.
        generator: Of the same device; by default torch's own.
    """
    others = teacher.scatter(1, teacher.argmax(1, keepdim=True), -torch.inf)
    return others.softmax(1).multinomial(1, generator=generator).squeeze(1)


def boundary_attack(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    steps: int = 10,
    step_size: float = 0.3,
    limit: float = 2.5,
) -> Tensor:
    """Move images to the boundary between the network's class and another one.

    In each step, an image that is still of its first class moves by ``step_size * (f_first - f_target + 1e-4)`` along
    the gradient of ``f_target - f_first``, of length 1. ``f`` are logits, as released (bhheo/BSS_distillation at
    586b1411).

    Args:
        network: From images to logits.
        images: Normalised, ``B x C x H x W``.
        targets: The other class of each, ``B``.
        steps: Number of steps.
        step_size: Share of a step.
        limit: Values are clipped to ``[-limit, limit]``.

    Returns:
        The moved images, without a graph.
    """
    moved, first = images.detach(), None
    for _ in range(steps):
        with torch.enable_grad():
            moved.requires_grad_()
            logits = network(moved)
            first = logits.argmax(1) if first is None else first
            own, other = (logits.gather(1, classes[:, None]).squeeze(1) for classes in (first, targets))
            (gradient,) = torch.autograd.grad((other - own).sum(), moved)
        inside = logits.argmax(1) == first
        if not inside.any():
            return moved.detach()
        # a gradient of zero gives no direction
        length = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        share = (step_size * inside * (own - other + SMALL) / length).detach()
        moved = (moved.detach() + share.view(-1, 1, 1, 1) * gradient).clamp(-limit, limit)
    return moved


@MODELS.register_module()
class BoundarySampleLoss(nn.Module):
    """Distillation with images on the decision boundary (Heo et al., AAAI 2019, arXiv 1805.05532, section 3.3).

    ``BoundarySampleDistill`` makes these images; other algorithms leave the loss out. It is
    ``KL(softmax(t / tau) || softmax(s / tau))``, averaged over them: without ``tau ** 2``, as released. The released
    cross-entropy has the same gradient.

    Args:
        tau: Temperature.
        loss_weight: Weight of the loss.
        weight_schedule: How the weight changes over time, as in an entry of a ``FeatureDistiller``.

    Raises:
        SettingError: An argument is out of range.

    Config example::

        distill_losses=dict(loss_boundary=dict(type='BoundarySampleLoss', tau=3.0))
    """

    reads_labels = True
    reads_positions = False
    computed_by = 'BoundarySampleDistill'

    def __init__(self, tau: float = 3.0, loss_weight: float = 1.0, weight_schedule: dict | None = None) -> None:
        super().__init__()
        self.tau = checks.positive(self, 'tau', tau)
        self.loss_weight = checks.not_negative(self, 'loss_weight', loss_weight)
        schedule = WeightSchedule.of(type(self).__name__, weight_schedule)
        self.scheduled_weight = None if schedule is None else ScheduledWeight(schedule)
        # as a number, which can be read without waiting for the GPU; unknown before the first set_progress
        self._factor = 1.0 if schedule is None else None

    def set_progress(self, epoch: int, iteration: int) -> None:
        """Set the weight of an epoch or iteration, both counted from 0."""
        if self.scheduled_weight is not None:
            self.scheduled_weight.set_progress(epoch, iteration)
            self._factor = self.scheduled_weight.schedule.factor_at(epoch, iteration)

    @property
    def weight(self) -> float:
        """The weight now; 0 once the schedule has ended at that.

        Raises:
            SettingError: It changes over time, which nothing tells.
        """
        if self._factor is None:
            raise SettingError(
                'BoundarySampleLoss: weight_schedule depends on the epoch, which nothing tells it. Add '
                "default_hooks=dict(loss_schedule=dict(type='LossScheduleHook')) to the config, or call "
                'set_progress() in your own loop.'
            )
        return self.loss_weight * self._factor

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of the logits of images on the boundary, ``B x C``."""
        with full_precision(student, teacher.detach()) as features:
            own, whole = ((logits / self.tau).log_softmax(1) for logits in features)
            return self.weight * F.kl_div(own, whole, reduction='batchmean', log_target=True)

    def extra_repr(self) -> str:
        """Show the settings in the printed model and in the report at the start of a run."""
        settings: dict[str, Any] = {'tau': self.tau, 'loss_weight': self.loss_weight}
        shown = ', '.join(f'{name}={value:g}' for name, value in settings.items())
        return shown if self.scheduled_weight is None else f'{shown}, times {self.scheduled_weight.schedule}'
