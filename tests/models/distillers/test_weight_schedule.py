"""Weights of losses over time, against mmengine's own schedulers, and in whole trainings."""

import contextlib
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import CosineAnnealingParamScheduler, ExponentialParamScheduler, LinearParamScheduler
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.weight_schedule import ScheduledWeight, WeightSchedule


def schedule(**cfg: Any) -> WeightSchedule:
    return WeightSchedule.of('FeatureDistiller: kd in losses', cfg)


def factors_of(kind: type, steps: int, **settings: Any) -> list[float]:
    """Step one of mmengine's schedulers, from a value of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, factors = kind(optimizer, param_name='lr', **settings), []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return factors


def test_ramp_up() -> None:
    ramp = schedule(type='RampUp', begin=2, end=13, end_factor=3.0)
    expected = [3 * math.exp(-5 * (1 - min(max(step - 2, 0), 10) / 10) ** 2) for step in range(20)]
    assert [ramp.factor(step) for step in range(20)] == pytest.approx(expected, rel=1e-12)
    assert str(ramp) == 'ramp-up to 3 in epochs 3 to 13'
    with pytest.raises(SettingError, match='start_factor'):
        schedule(type='RampUp', end=3, start_factor=0.5)


@pytest.mark.parametrize(
    ('ours', 'kind', 'theirs'),
    [
        (dict(type='Linear', end=7, start_factor=0.2), LinearParamScheduler, dict(end=7, start_factor=0.2)),
        (
            dict(type='Linear', end=9, start_factor=1.0, end_factor=0.1),
            LinearParamScheduler,
            dict(end=9, start_factor=1.0, end_factor=0.1),
        ),
        (
            dict(type='Cosine', begin=0, end=9, start_factor=1.0, end_factor=0.25),
            CosineAnnealingParamScheduler,
            # it counts from the step before its last
            dict(begin=0, end=9, T_max=8, eta_min=0.25),
        ),
        (dict(type='Exponential', gamma=0.7), ExponentialParamScheduler, dict(gamma=0.7)),
        (
            dict(type='Exponential', gamma=0.7, begin=3, end=9),
            ExponentialParamScheduler,
            dict(gamma=0.7, begin=3, end=9),
        ),
    ],
)
def test_as_mmengine_steps(ours: dict, kind: type, theirs: dict) -> None:
    of_ours = schedule(**ours)
    assert [of_ours.factor(step) for step in range(12)] == pytest.approx(factors_of(kind, 12, **theirs), rel=1e-9)


@pytest.mark.parametrize(
    ('settings', 'factors'),
    [
        # DKD: min(e / 20, 1) with e from 1; ReviewKD: with e from 0
        (dict(type='Linear', end=20, start_factor=0.05), [min((e + 1) / 20, 1) for e in range(40)]),
        (dict(type='Linear', end=21), [min(e / 20, 1) for e in range(40)]),
        (dict(type='Constant', end=3), [0, 0, 0, 1, 1, 1]),
        (dict(type='Constant', end=2, start_factor=1.0, end_factor=0.5), [1, 1, 0.5, 0.5]),
        (dict(type='Cosine', begin=1, end=4), [0, 0, 0.5, 1, 1]),
        (dict(type='Linear', begin=2, end=3), [1, 1, 1, 1]),
        (dict(type='Exponential', gamma=2.0, start_factor=0.25, begin=1, end=4), [0.25, 0.25, 0.5, 1, 1]),
    ],
)
def test_factors_by_hand(settings: dict, factors: list[float]) -> None:
    found = schedule(**settings)
    assert [found.factor(step) for step in range(len(factors))] == pytest.approx(factors)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (5, r'weight_schedule=5 must be a dict'),
        (dict(begin=0), 'must be a dict'),
        (dict(type='Linaer', end=3), "type='Linaer' must be one of 'Linear'"),
        (dict(type='Linear', end=3, begn=1), r"no setting 'begn'\. Did you mean begin"),
        (dict(type='Linear', begin=20, end=20), 'ends before it begins: begin=20, end=20'),
        (dict(type='Cosine', begin=20, end=3, by_epoch=False), 'Give an end after begin, in iterations'),
        (dict(type='Linear'), 'end=None must be a number of epochs'),
        (dict(type='Linear', end='20'), "end='20' must be"),
        (dict(type=None, end=3), 'type=None must be one of'),
        (dict(type='Exponential', gamma=0.5, end_factor=0.1), 'end_factor=0.1 is not for'),
        (dict(type='Constant', begin=2, end=3), 'begin=2 is not for'),
        (dict(type='Linear', begin=-1, end=3), 'begin=-1'),
        (dict(type='Linear', begin=0, end=3, start_factor=-0.1), 'start_factor=-0.1'),
        (dict(type='Linear', end=3, gamma=0.5), 'gamma=0.5 belongs to'),
        (dict(type='Exponential'), 'gamma=None'),
        (dict(type='Linear', end=3, by_epoch='yes'), "by_epoch='yes'"),
    ],
)
def test_what_is_refused(cfg: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message) as error:
        WeightSchedule.of('FeatureDistiller: kd in losses', cfg)
    assert str(error.value).startswith('FeatureDistiller: kd in losses: weight_schedule')


@pytest.mark.parametrize(
    ('cfg', 'text'),
    [
        (dict(type='Linear', end=20, start_factor=0.05), 'Linear from 0.05 to 1 in epochs 1 to 20'),
        (dict(type='Constant', end=3, by_epoch=False), '0 in iterations 1 to 3, then 1'),
        (dict(type='Exponential', gamma=0.7, begin=3, end=6), '1, then times 0.7 each epoch from 5 to 6'),
    ],
)
def test_in_words(cfg: dict, text: str) -> None:
    assert str(schedule(**cfg)) == text


def kd(**schedule: Any) -> dict:
    loss = dict(type='KLDivergence', tau=4.0)
    return dict(type='FeatureDistiller', losses=dict(kd=dict(loss=loss, features='logits', weight_schedule=schedule)))


@pytest.fixture
def algorithm(network: Callable) -> Callable[..., nn.Module]:
    """Build a distillation from a res8 to a res8."""

    def build(distiller: dict) -> nn.Module:
        torch.manual_seed(0)
        cfg = dict(type='FrozenTeacherDistill', architecture=network('res8'), teacher=network('res8'))
        return MODELS.build({'_scope_': 'mmrazor', 'random_teacher': True, 'distiller': distiller, **cfg}).train()

    return build


@pytest.mark.parametrize('mixed', [False, True])
def test_the_loss_is_multiplied_and_the_task_is_not(mixed: bool, algorithm: Callable, batch: Callable) -> None:
    distiller = kd(type='Linear', end=5)
    model = algorithm(dict(type='MixedDistiller', distillers=dict(one=distiller)) if mixed else distiller)
    images, samples = batch(4)
    with pytest.raises(SettingError, match='LossScheduleHook'):
        model.loss(images, samples)
    found = []
    for epoch in (4, 0, 2):
        model.distiller.set_progress(epoch, 100)
        found.append([value.item() for value in model.loss(images, samples).values()])
    (task, full), (_, none), (_, half) = found
    assert (none, half) == (0, pytest.approx(full / 2))
    assert full > 0
    assert task == found[1][0] == found[2][0]


def test_it_is_not_in_checkpoints(algorithm: Callable) -> None:
    assert [*algorithm(kd(type='Linear', end=5)).state_dict()] == [*algorithm(kd(type='Linear', end=9)).state_dict()]
    assert not any('factor' in name for name in algorithm(kd(type='Linear', end=5)).state_dict())


def test_one_graph_serves_all_epochs() -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    weight = ScheduledWeight(schedule(type='Linear', end=5))
    compiled = torch.compile(weight, backend=backend, fullgraph=True)
    values = []
    for epoch in range(5):
        weight.set_progress(epoch, 0)
        values.append(compiled(torch.tensor(2.0)).item())
    assert values == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert len(graphs) == 1


class StoppedError(Exception):
    """The run was ended from outside."""


def weights_in(run: Runner, stop_at: int | None = None) -> list[float]:
    """Train, perhaps up to some iteration; return the factor in each."""
    factors, train_step = [], run.model.train_step

    def step(data: dict, optim_wrapper: object) -> dict:
        factors.append(run.model.distiller.scheduled_weights['loss_kd'].factor.item())
        if len(factors) == stop_at:
            raise StoppedError
        return train_step(data, optim_wrapper)

    run.model.train_step = step
    with contextlib.suppress(StoppedError):
        run.train()
    return factors


@pytest.fixture
def scheduled(demo_config: Callable) -> Callable[..., Config]:
    """The demo's config with KD of a scheduled weight, for 3 epochs of 2 iterations."""

    def config(**settings: Any) -> Config:
        cfg = demo_config()
        cfg.model.distiller = kd(**settings)
        cfg.train_dataloader.batch_size = -(-cfg.train_dataloader.batch_size // 2)
        cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval = 3, 9
        return cfg

    return config


@pytest.mark.slow
def test_weights_of_a_whole_and_of_a_resumed_training(scheduled: Callable, runner: Callable) -> None:
    cfg = scheduled(type='Linear', end=3)
    whole = weights_in(runner(cfg))
    batches = len(whole) // 3
    assert whole == pytest.approx([epoch / 2 for epoch in range(3) for _ in range(batches)])
    part = Config({**cfg.to_dict(), 'work_dir': f'{cfg.work_dir}_parts'})
    weights_in(runner(part), stop_at=batches + 1)
    part.resume = True
    assert weights_in(runner(part)) == whole[batches:]


@pytest.mark.slow
@pytest.mark.parametrize(('end', 'warned'), [(3, False), (5, True)])
def test_a_schedule_longer_than_the_training_gets_a_warning(
    end: int, warned: bool, scheduled: Callable, runner: Callable
) -> None:
    run = runner(scheduled(type='Linear', end=end))
    with mock.patch.object(run.logger, 'warning') as warning:
        weights_in(run, stop_at=1)
    texts = [call.args[0] for call in warning.call_args_list if 'weight of loss_kd' in call.args[0]]
    assert len(texts) == warned
    assert not warned or 'changes over 5 epochs, but the training ends after 3, at 0.5 of it' in texts[0]


@pytest.mark.slow
def test_weights_after_an_initial_stage(scheduled: Callable, runner: Callable) -> None:
    """The schedule counts from the main stage, in a resumed run, too."""
    cfg = scheduled(type='Linear', end=3)
    cfg.train_cfg.max_epochs = 5
    initial = dict(loss=dict(type='AttentionTransferLoss'), features='last_map', stage='initial')
    cfg.model.distiller.update(initial_epochs=2, image_shape=(3, 16, 16))
    cfg.model.distiller.losses.update(at=initial)
    whole = weights_in(runner(cfg))
    batches = len(whole) // 5
    assert whole == pytest.approx([max(0, epoch - 2) / 2 for epoch in range(5) for _ in range(batches)])
    part = Config({**cfg.to_dict(), 'work_dir': f'{cfg.work_dir}_parts'})
    weights_in(runner(part), stop_at=4 * batches + 1)
    part.resume = True
    assert weights_in(runner(part)) == whole[4 * batches :]


@pytest.mark.slow
def test_weights_by_iteration(scheduled: Callable, runner: Callable) -> None:
    cfg = scheduled(type='Linear', begin=1, end=4, by_epoch=False)
    cfg.train_cfg, cfg.param_scheduler = dict(by_epoch=False, max_iters=5, val_interval=9), None
    whole = weights_in(runner(cfg))
    assert whole == pytest.approx([0, 0, 0.5, 1, 1])
    cfg.default_hooks.checkpoint = dict(type='IntactCheckpointHook', by_epoch=False, interval=1)
    part = Config({**cfg.to_dict(), 'work_dir': f'{cfg.work_dir}_parts'})
    weights_in(runner(part), stop_at=4)
    part.resume = True
    assert weights_in(runner(part)) == whole[3:]


@pytest.mark.slow
def test_epochs_of_a_training_that_counts_iterations_are_refused(scheduled: Callable, runner: Callable) -> None:
    cfg = scheduled(type='Linear', end=3)
    cfg.train_cfg, cfg.param_scheduler = dict(by_epoch=False, max_iters=5), None
    with pytest.raises(SettingError, match=r'weight_schedule of loss_kd counts epochs.*by_epoch=False'):
        runner(cfg).train()
