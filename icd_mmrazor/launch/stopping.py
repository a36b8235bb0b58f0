"""Trainings that a signal ends, with a checkpoint."""

from typing import Any, NoReturn

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.compat.distributed import limit_of_waiting
from icd_mmrazor.engine.hooks import IntactCheckpointHook
from icd_mmrazor.engine.resuming.buffers import gather_buffers, load_buffers
from icd_mmrazor.engine.runs import hooks_of, model_of, optimizers_of
from icd_mmrazor.launch.signals import Received, Stopped, wait_for_iterations

# in a checkpoint
BUFFERS = 'buffers_of_ranks'


class StopHook(Hook):
    """End a training at a signal, with a checkpoint from which it resumes bit for bit.

    All processes stop after the same iteration: they exchange, while an iteration runs, whether one of them has
    received a signal. On one that comes during a validation, a single process stops at once, several after the first
    iteration that follows. The batch norm statistics of each process are stored, since they are averaged only at the
    end of an epoch.
    """

    # after the hooks of an iteration, and a checkpoint that was due
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        self._asked: tuple[dist.Work, torch.Tensor] | None = None
        self._buffers: list[dict[str, torch.Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        """Set the buffers of a resumed run; from now on, signals wait for the end of an iteration."""
        load_buffers(model_of(runner), self._buffers)
        self._buffers = []
        if dist.is_initialized():
            self._group = dist.new_group(backend='gloo', timeout=limit_of_waiting(runner.cfg))
        wait_for_iterations()

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        """Stop if a process was asked to; not between two updates of a gradient accumulation."""
        number = self._agreed_signal()
        if number and all(wrapper.should_update() for wrapper in optimizers_of(runner)):
            self._stop(runner, number, runner.iter + 1)

    def after_val_iter(self, runner: Runner, **_: Any) -> None:
        """Stop a single process."""
        if self._group is None and Received.waits and Received.number:
            self._stop(runner, Received.number, runner.iter)

    def after_train(self, _: Runner) -> None:
        """Let SIGTERM end the process at once again."""
        wait_for_iterations(False)
        if self._asked:
            self._asked[0].wait()

    def before_save_checkpoint(self, _: Runner, checkpoint: dict) -> None:
        """Store the buffers of all processes in the checkpoint of a stop."""
        if self._buffers:
            checkpoint[BUFFERS] = self._buffers

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the buffers that are resumed."""
        if runner._resume and isinstance(checkpoint.get(BUFFERS), list):
            self._buffers = checkpoint.pop(BUFFERS)

    def _agreed_signal(self) -> int:
        """Return the signal that a process had received an iteration ago, in all processes the same; 0 for none."""
        if self._group is None:
            return Received.number
        number = 0
        if self._asked:
            work, received = self._asked
            work.wait()
            number = int(received)
        # of this iteration, which all processes ask for before they wait
        received = torch.tensor(Received.number or number)
        self._asked = dist.all_reduce(received, dist.ReduceOp.MAX, self._group, async_op=True), received
        return number

    def _stop(self, runner: Runner, number: int, iteration: int) -> NoReturn:
        hook = next(iter(hooks_of(runner, IntactCheckpointHook)), None)
        saved = ''
        if hook is not None:
            self._buffers = gather_buffers(model_of(runner), self._group) if self._group else []
            saved = f'. Saved: {hook.save_now(runner, iteration)}'
        if self._group:
            dist.barrier(self._group)  # a launcher ends the others when the first has ended
        raise Stopped(number, saved)
