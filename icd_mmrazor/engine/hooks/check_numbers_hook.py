"""Stop where the numbers stop making sense."""

import math

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.utils.errors import NonFiniteLossError

REMEDY = (
    'Lower optim_wrapper.optimizer.lr, leave out --amp, or set optim_wrapper.clip_grad=dict(max_norm=5); then go on '
    'from the last checkpoint with --resume.'
)


@HOOKS.register_module()
class CheckNumbersHook(Hook):
    """Stop a run at the first infinite or undefined loss, and keep such weights out of the checkpoints.

    mmengine's ``CheckInvalidLossHook`` looks every 50 iterations and names nothing, and lets a checkpoint be written
    in between.

    Raises:
        NonFiniteLossError: The loss, or a weight that is about to be saved, is not finite. The message has the
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
            f'Its terms: {terms}. {self._kept(runner)} {REMEDY}'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the weights."""
        for name, weight in checkpoint['state_dict'].items():
            if not torch.isfinite(weight).all():
                raise NonFiniteLossError(
                    f'iteration {runner.iter + 1} (epoch {runner.epoch + 1}): the weight {name} is no longer finite; '
                    f'no checkpoint was written. {self._kept(runner)} {REMEDY}'
                )

    @staticmethod
    def _kept(runner: Runner) -> str:
        last = runner.message_hub.runtime_info.get('last_ckpt')
        return f'The last good checkpoint is {last}.' if last else 'No checkpoint had been written.'
