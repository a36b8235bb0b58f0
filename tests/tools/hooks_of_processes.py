"""Hooks and a transform for one of several processes: what it does wrong, and what it has trained on."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import BaseTransform
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.registry import TRANSFORMS


@HOOKS.register_module()
class FaultHook(Hook):
    """Do something in rank 1 in the second epoch, at each start of the launch what the list has for it.

    Args:
        faults: ``'kill'``, ``'raise'``, ``'sleep'``, ``'stop'``.
    """

    def __init__(self, faults: list[str]) -> None:
        self.fault = dict(enumerate(faults)).get(int(os.environ['TORCHELASTIC_RESTART_COUNT']))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.epoch < 1 or runner.rank != 1:
            return
        if self.fault == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == 'stop' and not Path(runner.work_dir, 'stopped').exists():
            Path(runner.work_dir, 'stopped').touch()
            os.kill(os.getpid(), signal.SIGUSR1)
        if self.fault == 'raise':
            raise RuntimeError('rank 1 has a fault')
        if self.fault == 'sleep':
            Path(runner.work_dir, 'sleeps').touch()
            time.sleep(1000)


@TRANSFORMS.register_module()
class EndlessInRank1(BaseTransform):
    """Never come back from an image, in a DataLoader worker of rank 1."""

    def transform(self, results: dict) -> dict:
        if os.environ['RANK'] == '1' and torch.utils.data.get_worker_info():
            while True:
                sum(range(1000))
        return results


@HOOKS.register_module()
class SeenBatchesHook(Hook):
    """Write positions and images of each batch to ``seen_RANK.pth``."""

    def __init__(self) -> None:
        self.seen: list[dict] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        (sample,) = data_batch['data_samples']
        self.seen.append(dict(epoch=runner.epoch, positions=sample.sample_idx, images=data_batch['inputs'].cpu()))

    def after_train(self, runner: Runner) -> None:
        torch.save(self.seen, Path(runner.work_dir, f'seen_{get_rank()}.pth'))
