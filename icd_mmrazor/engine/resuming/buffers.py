"""Buffers of several processes in checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import all_reduce_params
from mmengine.hooks import CheckpointHook, SyncBuffersHook
from mmengine.runner import Runner
from torch import Tensor, nn

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


def gather_buffers(model: nn.Module, group: dist.ProcessGroup) -> list[dict[str, Tensor]]:
    """Return in the first process, for each process, its buffers that differ from those of the first, on the CPU.

    Averages, as at the end of an epoch, would round otherwise than those of a run that is not stopped.

    Args:
        model: The model, in each process.
        group: A gloo group of all processes.

    Returns:
        A dict of buffers by name for each rank, that of rank 0 empty; in other processes an empty list.
    """
    own = {}
    for name, buffer in model.named_buffers():
        value = buffer.detach().cpu().contiguous()
        first = value.clone()
        dist.broadcast(first, 0, group)
        if not torch.equal(first, value):
            own[name] = value
    gathered: list | None = [{}] * dist.get_world_size(group) if dist.get_rank(group) == 0 else None
    dist.gather_object(own, gathered, 0, group)
    return gathered or []


def load_buffers(model: nn.Module, buffers: Sequence[Mapping[str, Tensor]]) -> None:
    """Give a model its buffers of :func:`gather_buffers`, if they are of as many processes as there are now."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    if len(buffers) != world:
        return
    own = buffers[dist.get_rank() if dist.is_initialized() else 0]
    for name, buffer in model.named_buffers():
        if name in own and own[name].shape == buffer.shape:
            buffer.copy_(own[name])
