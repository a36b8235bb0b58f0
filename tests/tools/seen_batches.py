"""A hook for one of several processes of a run: it writes what the process trained on to seen_RANK.pth."""

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class SeenBatchesHook(Hook):
    """Keep positions and images of each batch."""

    def __init__(self) -> None:
        self.seen: list[dict] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        (sample,) = data_batch['data_samples']
        self.seen.append(dict(epoch=runner.epoch, positions=sample.sample_idx, images=data_batch['inputs'].cpu()))

    def after_train(self, runner: Runner) -> None:
        torch.save(self.seen, Path(runner.work_dir, f'seen_{get_rank()}.pth'))
