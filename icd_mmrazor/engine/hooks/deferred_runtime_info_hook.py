"""The numbers of every iteration for the log, without waiting for the device in every iteration."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from icd_mmrazor.errors import SettingError

HISTORY = 1000


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` for a device that works on its own.

    mmengine's makes a Python number of each loss term in each iteration. For each the host waits until the GPU has
    computed it, and the GPU then waits for the host. This hook keeps the tensors and passes those of all iterations on
    together, with one copy from the device: where ``LoggerHook`` logs, before a validation and a checkpoint, at the
    end of an epoch, and in any case after ``history`` iterations. The log has the same numbers.

    It also limits what the message hub remembers. mmengine keeps every number of a run and copies all of them to add
    one: 0.8 ms a number after 240 epochs of CIFAR-100 (measured on a CPU), and an iteration has ten. Nothing is
    forgotten that the log averages over.

    Args:
        defer: Whether numbers wait. ``None``: those that are not on the CPU, where nothing is gained.
        history: How many of the last values of a number the message hub keeps at least; ``None``: all, as mmengine.
            Also the most iterations whose numbers wait; ``None``: 1000.

    Raises:
        SettingError: ``history`` is no positive integer.

    Attributes:
        passed_on (list[tuple[int, dict[str, float]]]): What reached the message hub last: the iteration, counted from
            0, and its numbers by name. Empty in an iteration in which nothing did.

    Config example::

        default_hooks=dict(runtime_info=dict(type='DeferredRuntimeInfoHook'))
    """

    def __init__(self, defer: bool | None = None, history: int | None = HISTORY) -> None:
        if history is not None and (not isinstance(history, int) or isinstance(history, bool) or history < 1):
            raise SettingError(
                f'DeferredRuntimeInfoHook: history={history!r} must be a positive integer, or None to keep all values.'
            )
        self.defer = defer
        self.history = history
        self.passed_on: list[tuple[int, dict[str, Any]]] = []
        self._waiting: list[tuple[int, dict[str, Any]]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Keep the numbers of the iteration; pass on what waits if they are logged in this one, or too many wait."""
        self.passed_on = []
        # detached, or the tensors would keep the graph of their iteration
        numbers = {name: v.detach() if isinstance(v, Tensor) else v for name, v in (outputs or {}).items()}
        self._waiting.append((runner.iter, numbers))
        on_device = any(isinstance(value, Tensor) and value.device.type != 'cpu' for value in numbers.values())
        defer = on_device if self.defer is None else self.defer
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
        """Pass on what waits, so that a loss that is no number stops the run before the file is written."""
        self._pass_on(runner)

    def _is_logged(self, runner: Runner, batch_idx: int) -> bool:
        loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
        return (
            not loggers
            or any(self.every_n_inner_iters(batch_idx, logger.interval) for logger in loggers)
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
        )

    def _pass_on(self, runner: Runner) -> None:
        if not self._waiting:
            return
        self.passed_on, self._waiting = self._waiting, []
        _make_numbers([values for _, values in self.passed_on])
        for _, values in self.passed_on:
            for name, value in values.items():
                runner.message_hub.update_scalar(f'train/{name}', value)
        self._forget(runner)

    def _forget(self, runner: Runner) -> None:
        """Limit the histories to what the log looks back at."""
        log = runner.log_processor
        windows = [log.window_size, *(cfg.get('window_size') for cfg in log.custom_cfg)]
        # others: 'epoch', 'global', or none, which is all
        if self.history is None or not all(isinstance(window, int) for window in windows):
            return
        for name, history in runner.message_hub.log_scalars.items():
            if name.startswith('train/'):
                history.max_length = max(self.history, *windows)


def _make_numbers(rows: list[dict[str, Any]]) -> None:
    """Replace the tensors of rows of values by Python numbers, with one copy for each device and type."""
    groups: dict[tuple, list[tuple[dict[str, Any], str]]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, Tensor):
                groups.setdefault((value.device, value.dtype), []).append((row, name))
    for places in groups.values():
        numbers = torch.stack([row[name].reshape(()) for row, name in places]).tolist()
        for (row, name), number in zip(places, numbers, strict=True):
            row[name] = number
