"""Schedules of the learning rate.

They register in mmengine's registry, so that configs of every scope find them.
"""

import math
from typing import Any

from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    r"""Linear warm-up over a part of the training, then half a cosine down to the end of it.

    With :math:`T` steps, of which :math:`W = \mathrm{round}(\text{warmup} \cdot T)` are the warm-up, the learning rate
    of step :math:`t = 0, 1, \dots` is that of the optimizer times

    .. math::
        f_0 + (1 - f_0) \frac{t}{W} \quad (t < W), \qquad
        f_1 + (1 - f_1) \frac{1 + \cos \pi \frac{t - W}{T - W}}{2} \quad (t \geq W)

    Since mmengine sets ``end`` to the length of the training, there is nothing to adapt when the number of epochs or
    the batch size changes. With mmengine's ``LinearLR`` and ``CosineAnnealingLR``, the warm-up must be set again.

    Args:
        optimizer: The optimizer, or its wrapper; from mmengine.
        warmup: The part of the training that is the warm-up, from 0 (none) to less than 1.
        start_factor: :math:`f_0`, what the learning rate is multiplied by in the first step, from 0 to 1.
        end_factor: :math:`f_1`, what it approaches at the end, from 0 to 1.
        begin: The step that the schedule starts at. Until then the learning rate stays as it is.
        end: The step that it ends at. Defaults to the end of the training.
        by_epoch: Whether steps are epochs. ``False``, iterations, also suits a training that counts iterations.
        **settings: Other arguments of mmengine's schedules.

    Raises:
        SettingError: An argument is out of range, or the training has no end to schedule.

    Config example::

        param_scheduler=dict(type='WarmupCosineLR', warmup=0.05, by_epoch=False)
    """

    def __init__(
        self,
        optimizer: Any,
        warmup: float = 0.05,
        start_factor: float = 0.01,
        end_factor: float = 0.0,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        **settings: Any,
    ) -> None:
        self.start_factor = _part(self, 'start_factor', start_factor)
        self.end_factor = _part(self, 'end_factor', end_factor)
        if not checks.is_number(warmup) or not 0 <= warmup < 1:
            raise SettingError(f'WarmupCosineLR: warmup={warmup!r} must be a part of the training, 0 <= warmup < 1.')
        if not begin < end < INF:
            raise SettingError(
                f'WarmupCosineLR: begin={begin} and end={end} must be steps of the training, begin < end. The training '
                'sets end if the config does not.'
            )
        self.total = end - begin
        self.warmup = round(warmup * self.total)
        super().__init__(optimizer, 'lr', begin=begin, end=end, by_epoch=by_epoch, **settings)

    @classmethod
    def build_iter_from_epoch(
        cls, *args: Any, begin: int = 0, end: int = INF, by_epoch: bool = True, epoch_length: int = 1, **settings: Any
    ) -> 'WarmupCosineLR':
        """Build a schedule of iterations from one of epochs, for ``convert_to_iter_based=True``."""
        if not by_epoch:
            raise SettingError(
                'WarmupCosineLR: convert_to_iter_based=True is for by_epoch=True. Remove one of the two.'
            )
        end = end if end == INF else end * epoch_length
        return cls(*args, begin=begin * epoch_length, end=end, by_epoch=False, **settings)

    def _get_value(self) -> list[float]:
        """Return the learning rate of each group of parameters at this step."""
        return [base * self.factor(self.last_step) for base in self.base_values]

    def factor(self, step: int) -> float:
        """Return what the learning rate is multiplied by, ``step`` steps after ``begin``."""
        if step < self.warmup:
            return self.start_factor + (1 - self.start_factor) * step / self.warmup
        passed = (step - self.warmup) / (self.total - self.warmup)
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * passed)) / 2


def _part(owner: object, name: str, value: Any) -> float:
    if not checks.is_number(value) or not 0 <= value <= 1:
        raise SettingError(f'{type(owner).__name__}: {name}={value!r} must be a number from 0 to 1.')
    return value
