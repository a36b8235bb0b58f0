"""The schedule with a warm-up, by its formula and against mmengine's two schedules."""

import math
from typing import Any

import pytest
import torch
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS

from icd_mmrazor.engine.schedulers import WarmupCosineLR
from icd_mmrazor.errors import SettingError


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([dict(params=[torch.zeros(1, requires_grad=True)], lr=lr) for lr in rates])


def rates_of(schedules: list[_ParamScheduler], sgd: torch.optim.Optimizer, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([group['lr'] for group in sgd.param_groups])
        sgd.step()
        for schedule in schedules:
            schedule.step()
    return rates


def test_each_group_of_parameters_follows_it() -> None:
    sgd = optimizer(1.0, 0.1)
    rates = rates_of([WarmupCosineLR(sgd, warmup=0.4, end_factor=0.2, end=5, by_epoch=False)], sgd, 7)
    factors = [0.01, 0.505, 1.0, 0.8, 0.4]
    # after its end the learning rate stays
    assert [rate for rate, _ in rates] == pytest.approx([*factors, factors[-1], factors[-1]])
    assert [rate for _, rate in rates] == pytest.approx([0.1 * rate for rate, _ in rates])


@pytest.mark.parametrize('steps', [1, 7, 40])
def test_without_warm_up_it_is_mmengines_cosine(steps: int) -> None:
    ours, theirs = optimizer(0.3), optimizer(0.3)
    got = rates_of([WarmupCosineLR(ours, warmup=0, end=steps, by_epoch=False)], ours, steps)
    want = rates_of([CosineAnnealingLR(theirs, end=steps, by_epoch=False)], theirs, steps)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize('steps', [4, 40])
def test_the_warm_up_is_mmengines(steps: int) -> None:
    ours, theirs, up = optimizer(0.3), optimizer(0.3), steps // 4
    got = rates_of([WarmupCosineLR(ours, warmup=0.25, end=steps, by_epoch=False)], ours, up + 1)
    want = rates_of([LinearLR(theirs, start_factor=0.01, end=up + 1, by_epoch=False)], theirs, up + 1)
    torch.testing.assert_close(got, want)


def test_it_waits_for_its_start_and_converts_epochs() -> None:
    sgd = optimizer(1.0)
    cfg = dict(type='WarmupCosineLR', begin=2, end=4, warmup=0.5, by_epoch=True, convert_to_iter_based=True)
    schedule = PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=sgd, epoch_length=3))
    rates = [rate for (rate,) in rates_of([schedule], sgd, 12)]
    assert rates[:6] == [1.0] * 6
    assert rates[6:] == pytest.approx([0.01, 0.34, 0.67, 1.0, 0.75, 0.25])


def test_its_state_is_restored() -> None:
    first, second = optimizer(1.0), optimizer(1.0)
    settings = dict(warmup=0.3, end=10, by_epoch=False)
    schedule = WarmupCosineLR(first, **settings)
    rates_of([schedule], first, 4)
    resumed = WarmupCosineLR(second, **settings)
    resumed.load_state_dict(schedule.state_dict())
    second.load_state_dict(first.state_dict())
    assert rates_of([resumed], second, 6) == rates_of([schedule], first, 6)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(warmup=1.0), 'warmup=1.0'),
        (dict(warmup='5'), "warmup='5'"),
        (dict(start_factor=-0.1), 'start_factor=-0.1'),
        (dict(end_factor=2), 'end_factor=2'),
        (dict(begin=10), 'begin=10'),
        (dict(end=math.inf), 'end=inf'),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=rf'WarmupCosineLR: .*{message}'):
        WarmupCosineLR(optimizer(1.0), **{'end': 10, 'by_epoch': False, **settings})
