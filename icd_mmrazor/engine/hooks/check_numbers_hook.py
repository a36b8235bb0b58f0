"""Stop where the numbers stop making sense."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor

from icd_mmrazor.engine.hooks.deferred_runtime_info_hook import DeferredRuntimeInfoHook
from icd_mmrazor.errors import NonFiniteLossError


@HOOKS.register_module()
class CheckNumbersHook(Hook):
    """Stop a run at the first infinite or undefined loss, and keep such weights out of the checkpoints.

    Where ``DeferredRuntimeInfoHook`` keeps the losses back, it looks at them at the next log line, validation or
    checkpoint, so that no iteration waits for the device because of it; otherwise at once. Gradients that are not
    finite are no error where a scaler leaves out the step (``AmpOptimWrapper``): the loss and the weights stay finite.

    mmdetection's ``CheckInvalidLossHook`` looks every 50 iterations and names nothing, and lets a checkpoint be written
    in between.

    Raises:
        NonFiniteLossError: The loss, or a weight at the end of an epoch, is not finite. The message has the
            iteration in which the loss went wrong, its terms and the last checkpoint.

    Config example::

        default_hooks=dict(check_numbers=dict(type='CheckNumbersHook'))
    """

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Look at the losses that have become known."""
        self._check_losses(runner, outputs)

    def before_val(self, runner: Runner) -> None:
        """Look at the losses that have become known."""
        self._check_losses(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at the weights, before ``CheckpointHook`` deletes an old checkpoint and writes a new one."""
        self._check_losses(runner)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._check_weights(runner, model.state_dict())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the weights of a checkpoint that is written between the ends of epochs."""
        self._check_losses(runner)
        self._check_weights(runner, checkpoint['state_dict'])

    @staticmethod
    def _check_losses(runner: Runner, outputs: Mapping[str, Any] | None = None) -> None:
        for iteration, numbers in _known_numbers(runner, outputs):
            # not only the sum, which stands first: a model with several optimizers may log none
            wrong = next((name for name, value in numbers.items() if 'loss' in name and not math.isfinite(value)), None)
            if wrong is None:
                continue
            terms = ', '.join(f'{name}={float(value):.4g}' for name, value in numbers.items() if name != 'loss')
            raise NonFiniteLossError(
                f'iteration {iteration + 1} (epoch {runner.epoch + 1}): {"the loss" if wrong == "loss" else wrong} is '
                f'{float(numbers[wrong])}. Its terms: {terms}. {_remedy(runner)}'
            )

    @staticmethod
    def _check_weights(runner: Runner, weights: dict[str, Tensor]) -> None:
        if not weights:
            return
        finite = [torch.isfinite(weight).all() for weight in weights.values()]
        # asked once: each answer is a wait for the device
        answers = torch.stack([answer.to(finite[0].device) for answer in finite]).tolist()
        for name, is_finite in zip(weights, answers, strict=True):
            if not is_finite:
                raise NonFiniteLossError(
                    f'after iteration {runner.iter}: the weight {name} is no longer finite; no checkpoint was '
                    f'written. {_remedy(runner)}'
                )


def _known_numbers(runner: Runner, outputs: Mapping[str, Any] | None) -> list[tuple[int, dict[str, Any]]]:
    """Return what has become known just now: iterations, counted from 0, and their numbers by name."""
    for hook in runner.hooks:
        if isinstance(hook, DeferredRuntimeInfoHook):
            return hook.passed_on
    numbers = {name: v.detach() if isinstance(v, Tensor) else v for name, v in (outputs or {}).items()}
    return [(runner.iter, numbers)]


def _remedy(runner: Runner) -> str:
    last = find_latest_checkpoint(runner.work_dir) if Path(runner.work_dir, 'last_checkpoint').is_file() else None
    if last is None or not Path(last).is_file():
        return (
            'No checkpoint had been written. Lower optim_wrapper.optimizer.lr, leave out --amp, or set '
            'optim_wrapper.clip_grad.max_norm=5.'
        )
    return (
        f'The last good checkpoint is {last}. Go on from it with --resume --resume-changes list, without --amp or '
        'with --cfg-options optim_wrapper.clip_grad.max_norm=5; or, since a resumed run keeps its learning rate, start '
        f'anew from its weights: --cfg-options load_from={last} and a lower optim_wrapper.optimizer.lr.'
    )
