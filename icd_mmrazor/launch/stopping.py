"""Trainings that a signal ends, with a checkpoint."""

from time import monotonic
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
MOST_ITERATIONS = 10  # between two exchanges


class StopHook(Hook):
    """End a training at a signal, with a checkpoint from which it resumes bit for bit.

    All processes stop after the same iteration: once a second, and at least every tenth iteration, they exchange
    whether one of them has received a signal, while the next iteration runs. On one that comes during a validation, a
    single process stops at once, several after one of the iterations that follow. The batch norm statistics of each
    process are stored, since they are averaged only at the end of an epoch.
    """

    # after the hooks of an iteration, and a checkpoint that was due
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        # the signal, and how many iterations to wait before the next exchange: about a second
        self._asked: tuple[dist.Work, torch.Tensor] | None = None
        self._agreed, self._done, self._due, self._last = 0, 0, 0, (0, monotonic())
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
        """Return the signal that a process has received, in all processes after the same iteration; 0 for none."""
        if self._group is None:
            return Received.number
        self._done += 1
        if self._asked:  # an iteration ago
            work, answer = self._asked
            work.wait()
            self._agreed, pause = answer.tolist()
            self._asked, self._due = None, self._done + pause
        if not self._agreed and self._done >= self._due:
            now = monotonic()
            speed = int((self._done - self._last[0]) / (now - self._last[1]))
            self._last = self._done, now
            answer = torch.tensor([Received.number, min(speed, MOST_ITERATIONS)])
            self._asked = dist.all_reduce(answer, dist.ReduceOp.MAX, self._group, async_op=True), answer
        return self._agreed

    def _stop(self, runner: Runner, number: int, iteration: int) -> NoReturn:
        hook = next(iter(hooks_of(runner, IntactCheckpointHook)), None)
        saved = ''
        if hook is not None:
            self._buffers = gather_buffers(model_of(runner), self._group) if self._group else []
            saved = f'. Saved: {hook.save_now(runner, iteration)}'
        if self._group:
            dist.barrier(self._group)  # a launcher ends the others when the first has ended
        raise Stopped(number, saved)
