"""Buffers that all processes agree on wherever a checkpoint is written."""

from typing import Any

from mmengine.dist import all_reduce_params
from mmengine.hooks import CheckpointHook, SyncBuffersHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class SyncSavedBuffersHook(SyncBuffersHook):
    """mmengine's ``SyncBuffersHook``, for checkpoints between the ends of epochs, too.

    Each process has batch norm statistics of its own images. mmengine's hook takes their mean at the end of an epoch
    and before a validation. A checkpoint after some iterations (``CheckpointHook(by_epoch=False)``) has those of the
    first process, and all processes of a run that is resumed from it begin with them. Here it has the mean, which a run
    that is not stopped goes on with as well.

    Config example::

        default_hooks=dict(sync_buffers=dict(type='SyncSavedBuffersHook'))
    """

    # before CheckpointHook
    priority = 'NORMAL'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Take the mean if a checkpoint is written after this iteration."""
        if self.distributed and any(_writes(hook, runner) for hook in runner.hooks):
            all_reduce_params(runner.model.buffers(), op='mean')


def _writes(hook: Any, runner: Runner) -> bool:
    """Decide as ``CheckpointHook`` does after an iteration."""
    return (
        isinstance(hook, CheckpointHook)
        and not hook.by_epoch
        and (
            hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_iter(runner))
        )
    )
