"""Buffers that all processes agree on in every checkpoint."""

from typing import Any

from mmengine.dist import all_reduce_params
from mmengine.hooks import CheckpointHook, SyncBuffersHook
from mmengine.runner import Runner

from icd_mmrazor.engine.runs import counts_iterations, hooks_of


class SyncSavedBuffersHook(SyncBuffersHook):
    """mmengine's ``SyncBuffersHook``, for checkpoints between the ends of epochs, too.

    There (``CheckpointHook(by_epoch=False)``) they would have the batch norm statistics of the first process alone.
    """

    # before EMAHook and CheckpointHook
    priority = 45

    def before_train(self, runner: Runner) -> None:
        """Leave the buffers of a resumed run alone until it trains: a second average may change their last bits."""
        # a loop that counts iterations has no end of an epoch: there each validation averages
        self.called_in_train = not counts_iterations(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Average the buffers if a checkpoint is written after this iteration."""
        if self.distributed and any(_writes(hook, runner) for hook in hooks_of(runner, CheckpointHook)):
            all_reduce_params(runner.model.buffers(), op='mean')


def _writes(hook: CheckpointHook, runner: Runner) -> bool:
    """Decide as ``CheckpointHook`` does after an iteration."""
    if hook.by_epoch:
        return False
    last = hook.save_last and hook.is_last_train_iter(runner)
    return last or hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
