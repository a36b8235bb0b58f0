"""Stop where the numbers stop making sense."""

import math
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor

from icd_mmrazor.utils.errors import NonFiniteLossError


@HOOKS.register_module()
class CheckNumbersHook(Hook):
    """Stop a run at the first infinite or undefined loss, and keep such weights out of the checkpoints.

    mmengine's ``CheckInvalidLossHook`` looks every 50 iterations and names nothing, and lets a checkpoint be written
    in between.

    Raises:
        NonFiniteLossError: The loss, or a weight at the end of an epoch, is not finite. The message has the
            iteration, the terms and the last checkpoint.

    Config example::

        default_hooks=dict(check_numbers=dict(type='CheckNumbersHook'))
    """

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Look at the loss of the iteration."""
        if not outputs or 'loss' not in outputs or math.isfinite(outputs['loss'].item()):
            return
        terms = ', '.join(f'{name}={value.item():.4g}' for name, value in outputs.items() if name != 'loss')
        raise NonFiniteLossError(
            f'iteration {runner.iter + 1} (epoch {runner.epoch + 1}): the loss is {outputs["loss"].item()}. '
            f'Its terms: {terms}. {_remedy(runner)}'
        )

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at the weights, before ``CheckpointHook`` deletes an old checkpoint and writes a new one."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._check_weights(runner, model.state_dict())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the weights of a checkpoint that is written between the ends of epochs."""
        self._check_weights(runner, checkpoint['state_dict'])

    @staticmethod
    def _check_weights(runner: Runner, weights: dict[str, Tensor]) -> None:
        for name, weight in weights.items():
            if not torch.isfinite(weight).all():
                raise NonFiniteLossError(
                    f'after iteration {runner.iter}: the weight {name} is no longer finite; no checkpoint was '
                    f'written. {_remedy(runner)}'
                )


def _remedy(runner: Runner) -> str:
    last = find_latest_checkpoint(runner.work_dir) if Path(runner.work_dir, 'last_checkpoint').is_file() else None
    if last is None or not Path(last).is_file():
        return (
            'No checkpoint had been written. Lower optim_wrapper.optimizer.lr, leave out --amp, or set '
            'optim_wrapper.clip_grad.max_norm=5.'
        )
    return (
        f'The last good checkpoint is {last}. Go on from it with --resume, without --amp or with '
        '--cfg-options optim_wrapper.clip_grad.max_norm=5; or, since a resumed run keeps its learning rate, start '
        f'anew from its weights: --cfg-options load_from={last} and a lower optim_wrapper.optimizer.lr.'
    )
