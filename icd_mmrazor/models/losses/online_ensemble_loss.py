"""Divergence of the branches of a network from their ensemble."""

from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.models.distillers.weight_schedule import ScheduledWeight, WeightSchedule
from icd_mmrazor.models.losses.functional import full_precision

SMALL = 1e-7


@MODELS.register_module()
class OnlineEnsembleLoss(nn.Module):
    """Divergence of a branch from the ensemble (ONE: Lan, Zhu and Gong, NeurIPS 2018, arXiv 1806.04606, equation 7).

    ``tau ** 2 / B * sum q log(q / p)``, where ``p`` are the probabilities of the branch at temperature ``tau``, and
    ``q`` those of the ensemble plus 1e-7, which are taken as constants; as released (Lan1991Xu/ONE_NeurIPS2018 at
    54afde30).

    Args:
        tau: Temperature.
        loss_weight: Weight of the loss.
        weight_schedule: How the weight changes over time, as in an entry of a ``FeatureDistiller``.

    Raises:
        SettingError: An argument is out of range.
    """

    def __init__(self, tau: float = 3.0, loss_weight: float = 1.0, weight_schedule: dict | None = None) -> None:
        super().__init__()
        self.tau = checks.positive(self, 'tau', tau)
        self.loss_weight = checks.not_negative(self, 'loss_weight', loss_weight)
        schedule = WeightSchedule.of(type(self).__name__, weight_schedule)
        self.scheduled_weight = None if schedule is None else ScheduledWeight(schedule)

    def forward(self, branch: Tensor, ensemble: Tensor) -> Tensor:
        """Compute the loss of the logits of a batch, ``B x C``, a scalar."""
        with full_precision(branch, ensemble.detach()) as (own, whole):
            target = (whole / self.tau).softmax(1) + SMALL
            divergence = (target * (target.log() - (own / self.tau).log_softmax(1))).sum() / len(own)
        loss = self.loss_weight * self.tau**2 * divergence
        return loss if self.scheduled_weight is None else self.scheduled_weight(loss)

    def set_progress(self, epoch: int, iteration: int) -> None:
        """Set the weight of an epoch or iteration, both counted from 0."""
        if self.scheduled_weight is not None:
            self.scheduled_weight.set_progress(epoch, iteration)

    def extra_repr(self) -> str:
        """Show the settings in the printed model."""
        return f'tau={self.tau:g}, loss_weight={self.loss_weight:g}'
