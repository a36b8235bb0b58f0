"""Finite numbers in training."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor

from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.errors import NonFiniteLossError


class NumberCheck(Hook):
    """Stop a run at the first NaN or infinite loss, and keep such weights out of the checkpoints.

    If ``DeferredRuntimeInfoHook`` defers the losses, they are checked at the next log line, validation or checkpoint,
    so that no iteration waits for the device. Gradients that a scaler skips (``AmpOptimWrapper``) are not an error.

    Raises:
        NonFiniteLossError: A loss, or a weight at the end of an epoch, is not finite.
    """

    # after DeferredRuntimeInfoHook, before EMAHook and CheckpointHook
    priority = 'ABOVE_NORMAL'

    def __init__(self) -> None:
        # when an earlier run in the same folder wrote its last checkpoint
        self._earlier: int | None = None

    def before_run(self, runner: Runner) -> None:
        """Note what an earlier run has left, unless it is resumed."""
        self._earlier = None if runner._resume else _pointer_written(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Check the losses that have become known."""
        self._check_losses(runner, outputs)

    def before_val(self, runner: Runner) -> None:
        """Check the losses that have become known."""
        self._check_losses(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Check the weights before a checkpoint replaces an older one."""
        self._check_losses(runner)
        self._check_weights(runner, model_of(runner).state_dict())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights of a checkpoint between the ends of epochs."""
        self._check_losses(runner)
        self._check_weights(runner, checkpoint['state_dict'])

    def _check_losses(self, runner: Runner, outputs: Mapping[str, Any] | None = None) -> None:
        for iteration, numbers in _known_numbers(runner, outputs):
            # not only the sum, which comes first: a model with several optimizers may log none
            wrong = next((name for name, value in numbers.items() if 'loss' in name and not math.isfinite(value)), None)
            if wrong is not None:
                terms = ', '.join(f'{name}={float(value):.4g}' for name, value in numbers.items() if name != 'loss')
                raise NonFiniteLossError(
                    f'iteration {iteration + 1} (epoch {runner.epoch + 1}): {"the loss" if wrong == "loss" else wrong} '
                    f'is {float(numbers[wrong])}. Its terms: {terms}. {self._remedy(runner)}'
                )

    def _check_weights(self, runner: Runner, weights: Mapping[str, Tensor]) -> None:
        if not weights:
            return
        finite = [torch.isfinite(weight).all() for weight in weights.values()]
        # all at once: each answer waits for the device
        answers = torch.stack([answer.to(finite[0].device) for answer in finite]).tolist()
        for name, is_finite in zip(weights, answers, strict=True):
            if not is_finite:
                raise NonFiniteLossError(
                    f'after iteration {runner.iter}: the weight {name} is no longer finite; no checkpoint was written. '
                    f'{self._remedy(runner)}'
                )

    def _remedy(self, runner: Runner) -> str:
        written = _pointer_written(runner)
        last = find_latest_checkpoint(runner.work_dir) if written not in (None, self._earlier) else None
        if last is None or not Path(last).is_file():
            return (
                'No checkpoint had been written. Lower optim_wrapper.optimizer.lr, leave out --amp, or set '
                'optim_wrapper.clip_grad.max_norm=5.'
            )
        return (
            f'The last good checkpoint is {last}. Resume it with --resume --resume-changes list, without --amp or with '
            '--cfg-options optim_wrapper.clip_grad.max_norm=5; or train from its weights with a lower learning rate: '
            f'--cfg-options load_from={last} optim_wrapper.optimizer.lr=...'
        )


def _pointer_written(runner: Runner) -> int | None:
    """Return when the file was written that names the last checkpoint; None if there is none."""
    file = Path(runner.work_dir, 'last_checkpoint')
    return file.stat().st_mtime_ns if file.is_file() else None


def _known_numbers(runner: Runner, outputs: Mapping[str, Any] | None) -> list[tuple[int, dict[str, Any]]]:
    """Return the iterations, counted from 0, whose numbers have just become known, with these."""
    for hook in runner.hooks:
        if hasattr(hook, 'passed_on'):  # DeferredRuntimeInfoHook
            return hook.passed_on
    numbers = {name: v.detach() if isinstance(v, Tensor) else v for name, v in (outputs or {}).items()}
    return [(runner.iter, numbers)]
