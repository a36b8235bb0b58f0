"""Deferred logging of numbers."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.engine.runs import hooks_of

HISTORY = 1000


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` without a wait for the GPU in every iteration.

    mmengine converts each loss term to a Python number in each iteration, and waits for the GPU each time. Here those
    of several iterations are converted together: when ``LoggerHook`` logs, before a validation or checkpoint, at the
    end of an epoch, and after ``history`` iterations at the latest.

    The message hub keeps the last values only, at least those that the log averages over. mmengine keeps every number
    of a run and copies all of them to add one: 0.8 ms per number after 240 epochs of CIFAR-100, on a CPU.

    Args:
        defer: Whether to defer; ``None``: if the numbers are not on the CPU, where nothing is gained.
        history: How many values of a number the message hub keeps at least; ``None``: all. Also the most iterations
            that are deferred; ``None``: 1000.

    Raises:
        SettingError: ``defer`` is not a bool, or ``history`` is not a positive integer.

    Attributes:
        passed_on (list[tuple[int, dict[str, float]]]): What has just reached the message hub: the iteration, counted
            from 0, and its numbers by name.

    Config example::

        default_hooks=dict(runtime_info=dict(type='DeferredRuntimeInfoHook'))
    """

    def __init__(self, defer: bool | None = None, history: int | None = HISTORY) -> None:
        self.defer = defer if defer is None else checks.boolean(self, 'defer', defer)
        self.history = history if history is None else checks.positive_int(self, 'history', history)
        self.passed_on: list[tuple[int, dict[str, Any]]] = []
        self._waiting: list[tuple[int, dict[str, Any]]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Keep the numbers of the iteration; pass them on if this one is logged, or too many wait."""
        self.passed_on = []
        # detached, or they would keep the graph of their iteration
        numbers = {name: v.detach() if isinstance(v, Tensor) else v for name, v in (outputs or {}).items()}
        self._waiting.append((runner.iter, numbers))
        defer = self.defer
        if defer is None:
            defer = any(isinstance(value, Tensor) and value.device.type != 'cpu' for value in numbers.values())
        full = len(self._waiting) >= (self.history or HISTORY)
        if not defer or full or self._is_logged(runner, batch_idx):
            self._pass_on(runner)

    def before_val(self, runner: Runner) -> None:
        """Pass on what waits."""
        self._pass_on(runner)
        super().before_val(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Pass on what waits."""
        self._pass_on(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Pass on what waits: a loss that is not finite stops the run before the file is written."""
        self._pass_on(runner)

    def _is_logged(self, runner: Runner, batch_idx: int) -> bool:
        loggers = hooks_of(runner, LoggerHook)
        logged = any(self.every_n_inner_iters(batch_idx, logger.interval) for logger in loggers)
        return not loggers or logged or self.end_of_epoch(runner.train_dataloader, batch_idx)

    def _pass_on(self, runner: Runner) -> None:
        if not self._waiting:
            return
        self.passed_on, self._waiting = self._waiting, []
        _convert([values for _, values in self.passed_on])
        for _, values in self.passed_on:
            for name, value in values.items():
                runner.message_hub.update_scalar(f'train/{name}', value)
        self._limit_history(runner)

    def _limit_history(self, runner: Runner) -> None:
        log = runner.log_processor
        windows = [log.window_size, *(cfg.get('window_size') for cfg in log.custom_cfg)]
        # a window may also be 'epoch' or 'global', or missing, which means all
        if self.history is None or not all(isinstance(window, int) for window in windows):
            return
        for name, history in runner.message_hub.log_scalars.items():
            if name.startswith('train/'):
                history.max_length = max(self.history, *windows)


def _convert(rows: list[dict[str, Any]]) -> None:
    """Replace tensors by Python numbers, with one copy for each device and type."""
    groups: dict[tuple, list[tuple[dict[str, Any], str]]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, Tensor):
                groups.setdefault((value.device, value.dtype), []).append((row, name))
    for places in groups.values():
        numbers = torch.stack([row[name].reshape(()) for row, name in places]).tolist()
        for (row, name), number in zip(places, numbers, strict=True):
            row[name] = number
