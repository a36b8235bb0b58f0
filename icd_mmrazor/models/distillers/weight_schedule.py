"""Weights of losses that change during a training."""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError, did_you_mean

KINDS = ('Linear', 'Cosine', 'Exponential', 'RampUp', 'Constant')
STEEPNESS = 5.0  # of 'RampUp'


@dataclass(frozen=True)
class WeightSchedule:
    """What the weight of a loss is multiplied by, in the words of mmengine's parameter schedulers.

    Steps are epochs or iterations, counted from 0. Before ``begin`` the factor is the one of ``begin``, and from
    ``end`` on it no longer changes. In between:

    * ``'Linear'``: from ``start_factor`` to ``end_factor``, which is reached in the step before ``end``;
    * ``'Cosine'``: the same along half a cosine;
    * ``'Exponential'``: ``start_factor``, multiplied by ``gamma`` after each step;
    * ``'RampUp'``: ``end_factor * exp(-5 (1 - t) ** 2)``, where ``t`` grows evenly from 0 at ``begin`` to 1 in the step
      before ``end`` (Laine and Aila, arXiv 1610.02242);
    * ``'Constant'``: ``start_factor``, and from ``end`` on ``end_factor``. (mmengine's changes a step before.)

    Attributes:
        type: One of these.
        begin: First step; 0 for ``'Constant'``.
        end: The step after the last one; without, an ``'Exponential'`` does not end.
        start_factor: Factor at ``begin``; 0 by default, and 1 for ``'Exponential'``.
        end_factor: Factor at the end.
        gamma: Factor of each step of ``'Exponential'``, which needs it.
        by_epoch: Whether steps are epochs; otherwise they are iterations.

    Config example, DKD's warm-up, a twentieth in the first epoch and 1 in the 20th::

        weight_schedule=dict(type='Linear', begin=0, end=20, start_factor=0.05)
    """

    type: str
    begin: int = 0
    end: int | None = None
    start_factor: float | None = None
    end_factor: float = 1.0
    gamma: float | None = None
    by_epoch: bool = True

    @classmethod
    def of(cls, owner: str, cfg: Any) -> 'WeightSchedule | None':
        """Check the setting ``weight_schedule`` of an entry of ``losses``.

        Args:
            owner: What has the setting, for messages.
            cfg: The setting; None for a weight that stays the same.

        Raises:
            SettingError: Something in it is unknown, missing or out of range, or it ends before it begins.
        """
        if cfg is None:
            return None
        owner = f'{owner}: weight_schedule'
        known = [field.name for field in fields(cls)]
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise SettingError(f"{owner}={cfg!r} must be a dict, such as dict(type='Linear', begin=0, end=20).")
        if unknown := sorted({*cfg} - {*known, '_scope_'}, key=str):
            raise SettingError(f'{owner} has no setting {unknown[0]!r}.{did_you_mean(unknown[0], known)}')
        checks.one_of(owner, 'type', cfg['type'], KINDS)
        settings = {name: value for name, value in cfg.items() if name != '_scope_' and value is not None}
        if settings['type'] == 'Exponential' and 'end_factor' in settings:
            raise SettingError(f"{owner}: end_factor={cfg['end_factor']!r} is not for type='Exponential'. Remove it.")
        if settings['type'] == 'RampUp' and 'start_factor' in settings:
            raise SettingError(f"{owner}: start_factor={cfg['start_factor']!r} is not for type='RampUp'. Remove it.")
        if settings['type'] == 'Constant' and settings.get('begin'):
            raise SettingError(
                f"{owner}: begin={cfg['begin']!r} is not for type='Constant', which begins at 0. Remove it."
            )
        schedule = cls(**{'start_factor': 1.0 if settings['type'] == 'Exponential' else 0.0, **settings})
        schedule._check(owner)
        return schedule

    def _check(self, owner: str) -> None:
        checks.boolean(owner, 'by_epoch', self.by_epoch)
        for name in ('start_factor', 'end_factor'):
            checks.not_negative(owner, name, getattr(self, name))
        if type(self.begin) is not int or self.begin < 0:
            raise SettingError(f'{owner}: begin={self.begin!r} must be a number of steps, 0 or greater.')
        exponential = self.type == 'Exponential'
        if exponential:
            checks.positive(owner, 'gamma', self.gamma)
        elif self.gamma is not None:
            raise SettingError(f"{owner}: gamma={self.gamma!r} belongs to type='Exponential'. Remove it.")
        unit = 'epochs' if self.by_epoch else 'iterations'
        if exponential and self.end is None:
            return
        if type(self.end) is not int:
            raise SettingError(f'{owner}: end={self.end!r} must be a number of {unit}.')
        if self.end <= self.begin:
            raise SettingError(
                f'{owner} ends before it begins: begin={self.begin}, end={self.end}. Give an end after begin, in '
                f'{unit}.'
            )

    def factor(self, step: int) -> float:
        """Return the factor in a step, counted from 0."""
        if self.type == 'Constant':
            return float(self.start_factor if step < self.end else self.end_factor)
        last = math.inf if self.end is None else self.end - 1
        done = min(max(step, self.begin), last) - self.begin
        if self.type == 'Exponential':
            return self.start_factor * self.gamma**done
        # one step alone is the last one
        share = done / (last - self.begin) if last > self.begin else 1.0
        if self.type == 'RampUp':
            return self.end_factor * math.exp(-STEEPNESS * (1 - share) ** 2)
        if self.type == 'Cosine':
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start_factor + share * (self.end_factor - self.start_factor)

    def factor_at(self, epoch: int, iteration: int) -> float:
        """Return the factor in the one of the two that are its steps, both counted from 0."""
        return self.factor(epoch if self.by_epoch else iteration)

    def __str__(self) -> str:
        """Describe it: ``'Linear from 0.05 to 1 in epochs 1 to 20'``."""
        unit = 'epoch' if self.by_epoch else 'iteration'
        if self.type == 'Constant':
            return f'{self.start_factor:g} in {unit}s 1 to {self.end}, then {self.end_factor:g}'
        if self.type == 'Exponential':
            until = '' if self.end is None else f' to {self.end}'
            return f'{self.start_factor:g}, then times {self.gamma:g} each {unit} from {self.begin + 2}{until}'
        if self.type == 'RampUp':
            return f'ramp-up to {self.end_factor:g} in {unit}s {self.begin + 1} to {self.end}'
        change = f'{self.type} from {self.start_factor:g} to {self.end_factor:g}'
        return f'{change} in {unit}s {self.begin + 1} to {self.end}'


class ScheduledWeight(nn.Module):
    """A factor of a loss that follows a schedule.

    A buffer holds it, so that a compiled graph stays as it is when it changes. It is not in checkpoints: it follows
    from the number of epochs or iterations, which are.

    Args:
        schedule: The schedule.
    """

    factor: Tensor

    def __init__(self, schedule: WeightSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.register_buffer('factor', torch.tensor(schedule.factor(0)), persistent=False)

    def set_progress(self, epoch: int, iteration: int) -> None:
        """Set the factor of an epoch or iteration, both counted from 0."""
        self.factor.fill_(self.schedule.factor_at(epoch, iteration))

    def forward(self, loss: Tensor) -> Tensor:
        """Multiply a loss by the factor."""
        return loss * self.factor

    def extra_repr(self) -> str:
        """Show the schedule in the printed model."""
        return str(self.schedule)
