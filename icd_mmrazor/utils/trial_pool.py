"""Several trials at a time, stopped together."""

import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from icd_mmrazor.utils.progress import Progress
from icd_mmrazor.utils.trials import Trial

POLL_SECONDS = 0.1
# between asking a training to end and making it
GRACE_SECONDS = 10


def run_trials(
    trials: Sequence[Trial],
    slots: Sequence[Mapping[str, str]],
    progress: Progress,
    keep_going: bool = True,
    keep_open: Sequence[int] = (),
    finished: Callable[[Trial], None] | None = None,
) -> list[Trial]:
    """Run those trials that have no result yet, one in each slot at a time.

    Ctrl-C and SIGTERM end the running ones, which the same call later goes on with.

    Args:
        trials: In the order in which they are started.
        slots: The environment variables of each, for example the GPU.
        progress: Says what happens.
        keep_going: Whether to start further trials after one has failed.
        keep_open: Open files that the trainings inherit.
        finished: Called with each trial that has ended well.

    Returns:
        The trials that failed.

    Raises:
        SystemExit: A signal stopped the trials.
    """
    waiting = deque(trial for trial in trials if trial.result is None)
    free, running, failed = deque(slots), {}, []
    with _noted_signals() as signals:
        try:
            while not signals and (running or waiting):
                while free and waiting:
                    trial, slot = waiting.popleft(), free.popleft()
                    trial.start(slot, keep_open)
                    running[trial] = slot
                time.sleep(POLL_SECONDS)
                for trial in [trial for trial in running if trial.poll()]:
                    free.append(running.pop(trial))
                    if trial.failure is None:
                        result = trial.result
                        progress.show(f'  {trial.name}: {result["accuracy"]:.1f} % in {result["seconds"]:.0f} s')
                        if finished:
                            finished(trial)
                        continue
                    failed.append(trial)
                    if keep_going:
                        progress.show(f'  {trial.name}: failed, see {trial.log}')
                    else:
                        waiting.clear()
                if running:
                    progress.update(list(running))
        finally:
            _stop(list(running))
    if signals:
        progress.show(f'stopped by {signal.Signals(signals[0]).name}; the same command goes on where this one ended')
        sys.exit(128 + signals[0])
    return failed


def _stop(trials: Sequence[Trial]) -> None:
    """End trials with their children, at first politely."""
    for trial in trials:
        trial.stop()
    until = time.monotonic() + GRACE_SECONDS
    for trial in trials:
        trial.wait(until - time.monotonic())
    for trial in trials:
        trial.stop(signal.SIGKILL)
        trial.wait(GRACE_SECONDS)


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop instead of being interrupted by them; one that is ignored stays so."""
    noted: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def number_of_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
