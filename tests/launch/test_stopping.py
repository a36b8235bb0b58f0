"""Trainings that a signal ends, and that are resumed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launches import in_processes
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from same_checkpoints import differences
from torch import nn

from icd_mmrazor.engine.resuming.buffers import gather_buffers, load_buffers
from icd_mmrazor.launch.signals import Stopped, stop_signals
from icd_mmrazor.launch.stopping import StopHook


class SignalHook(Hook):
    """Send this process a signal in some iteration, or in the first batch of some validation."""

    def __init__(self, number: int, iteration: int = -1, epoch: int = -1) -> None:
        self.number, self.iteration, self.epoch = number, iteration, epoch

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.iteration:
            os.kill(os.getpid(), self.number)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.epoch == self.epoch:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def train(demo_config: Callable[..., Config], runner: Callable[[Config], Runner], tmp_path: Path) -> Callable[..., str]:
    """Train for 3 epochs of 4 iterations; return what ended it."""

    def run(folder: str, signals: SignalHook | None = None, **options: object) -> str:
        several = {'train_cfg.max_epochs': 3, 'train_dataloader.batch_size': 16}
        cfg = demo_config('icd-kd_res20_res8_digits', **several, **options)
        cfg.train_dataloader.dataset.indices = None
        cfg.work_dir, cfg.resume = str(tmp_path / folder), (tmp_path / folder).exists()
        run = runner(cfg)
        run.register_hook(StopHook())
        if signals:
            run.register_hook(signals)
        with stop_signals():
            try:
                run.train()
            except Stopped as stop:
                return f'{stop.status}: {stop}'
        return ''

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ('signals', 'options', 'said', 'left'),
    [
        (dict(number=signal.SIGUSR1, iteration=5), {}, '138: SIGUSR1. Saved: {}/iter_6.pth', 'iter_6.pth'),
        (dict(number=signal.SIGTERM, iteration=0), {}, '143: SIGTERM. Saved: {}/iter_1.pth', 'iter_1.pth'),
        # the checkpoint of the epoch has been written, and its validation is repeated
        (dict(number=signal.SIGTERM, epoch=2), {}, '143: SIGTERM. Saved: {}/epoch_2.pth', 'epoch_2.pth'),
        # the gradient of two batches
        (
            dict(number=signal.SIGTERM, iteration=4),
            {'optim_wrapper.accumulative_counts': 2},
            '143: SIGTERM. Saved: {}/iter_6.pth',
            'iter_6.pth',
        ),
        (
            dict(number=signal.SIGTERM, iteration=4),
            {'default_hooks.checkpoint.interval': 5, 'default_hooks.checkpoint.by_epoch': False},
            '143: SIGTERM. Saved: {}/iter_5.pth',
            'iter_5.pth',
        ),
    ],
    ids=['within an epoch', 'at once', 'validation', 'accumulation', 'a checkpoint is due'],
)
def test_a_stopped_training_ends_with_the_same_bits(
    signals: dict, options: dict, said: str, left: str, train: Callable[..., str], tmp_path: Path
) -> None:
    stopped = tmp_path / 'stopped'
    assert train('stopped', SignalHook(**signals), **options) == said.format(stopped)
    assert (stopped / 'last_checkpoint').read_text() == str(stopped / left)
    assert train('stopped', **options) == ''
    assert train('whole', **options) == ''
    last = Path((tmp_path / 'whole' / 'last_checkpoint').read_text())
    assert not differences(last, stopped / last.name)
    assert {file.name for file in stopped.glob('*.pth')} == {file.name for file in last.parent.glob('*.pth')}


@pytest.mark.slow
def test_a_training_that_is_stopped_twice_keeps_one_checkpoint_of_a_stop(
    train: Callable[..., str], tmp_path: Path
) -> None:
    for iteration in (4, 5):
        train('stopped', SignalHook(signal.SIGUSR1, iteration))
    assert [file.name for file in (tmp_path / 'stopped').glob('iter_*.pth')] == ['iter_6.pth']


def of_ranks(rank: int) -> dict[str, Any]:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(2))
    model[0].running_mean.fill_(rank)
    gathered = gather_buffers(model, torch.distributed.group.WORLD)
    fresh = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(2))
    everywhere = [gathered]
    torch.distributed.broadcast_object_list(everywhere, 0)
    load_buffers(fresh, everywhere[0])
    # of another number of processes
    other = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(2))
    load_buffers(other, everywhere[0][1:])
    return dict(gathered=gathered, own=fresh[0].running_mean, other=other[0].running_mean)


def test_each_process_gets_its_own_buffers(tmp_path: Path) -> None:
    first, second = in_processes(of_ranks, 2, tmp_path)
    assert second['gathered'] == []
    assert first['gathered'][0] == {}
    assert first['gathered'][1].keys() == {'0.running_mean'}  # what differs
    assert torch.equal(second['own'], torch.ones(3))
    assert torch.equal(first['own'], torch.zeros(3))
    assert torch.equal(second['other'], torch.zeros(3))
