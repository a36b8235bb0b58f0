"""Signals that end a process, or ask its training to stop."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from icd_mmrazor.launch.processes import several_processes

# a cluster sends SIGTERM when it takes the machine away, and what the user asked for before the time is up
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A signal has ended the process.

    Args:
        number: The signal.
        saved: What has been saved, for the message.
    """

    def __init__(self, number: int, saved: str = '') -> None:
        super().__init__(f'{signal.Signals(number).name}{saved}')
        self.status = 128 + number


class Received:
    """The signal that this process received; there is one table of signal handlers in a process."""

    number = 0
    # SIGTERM waits for the end of an iteration
    waits = False
    # while a tool runs
    handler: Callable[[int, FrameType | None], None] | None = None


@contextmanager
def stop_signals() -> Iterator[None]:
    """Let SIGTERM raise :class:`Stopped`, as Ctrl-C raises ``KeyboardInterrupt``, and SIGUSR1 do nothing.

    While a training waits for them (:func:`wait_for_iterations`), both are left to it. Cluster and launcher may each
    send the signal: after the first, others change nothing. One of several processes is ended by SIGTERM itself until
    it trains, since it may wait for the others in C++, which does not return to Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def receive(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a forked child
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        Received.number = Received.number or number
        if number == signal.SIGTERM and not Received.waits:
            raise Stopped(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    Received.handler = receive
    for number in (signal.SIGUSR1,) if several_processes() else SIGNALS:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        Received.number, Received.waits, Received.handler = 0, False, None


def wait_for_iterations(waits: bool = True) -> None:
    """Let signals wait for the end of an iteration, from now on or no longer."""
    Received.waits = waits
    if Received.handler and several_processes():
        signal.signal(signal.SIGTERM, Received.handler if waits else signal.SIG_DFL)


def spare_workers(loader: DataLoader) -> DataLoader:
    """Let the workers of a DataLoader survive the first SIGTERM, and SIGUSR1; return the loader.

    A cluster or a launcher sends its signal to all processes of a job, and the iteration that the training wants to
    finish needs its workers.
    """
    loader.worker_init_fn = _Spared(loader.worker_init_fn)
    return loader


class _Spared:
    def __init__(self, init: Any) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        def survive(number: int, _: FrameType | None) -> None:
            signal.signal(number, signal.SIG_DFL)

        signal.signal(signal.SIGTERM, survive)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if self.init:
            self.init(worker)
