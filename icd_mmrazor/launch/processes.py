"""Processes that a launcher has started together."""

import ctypes
import json
import multiprocessing
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import time
from typing import Any, NoReturn, TypeVar

import torch.distributed as dist

PR_SET_PDEATHSIG = 1  # linux/prctl.h
REQUEST = 5.0  # seconds for the store to answer

T = TypeVar('T')


def several_processes() -> bool:
    """Return whether a launcher has started this process together with others."""
    return int(os.environ.get('WORLD_SIZE', 1)) > 1


def open_store(seconds: float = REQUEST) -> dist.Store:
    """Connect to the key-value store of the launch, which torchrun or rank 0 holds.

    A separate connection does not wait behind the requests of other threads. Each restart has its own keys. Like each
    request to the store, this waits for as long as a machine that has stopped does not answer: see :func:`within`.

    Args:
        seconds: How long to wait for a machine that is slow.

    Raises:
        OSError: It is not there.
        RuntimeError: It does not answer.
        KeyError: The environment does not say where it is.
    """
    address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    # torch would print a stack of C++ if it is not
    socket.create_connection((address, port), timeout=seconds).close()
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=seconds))
    return dist.PrefixStore(f'icd_mmrazor/{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)


def within(seconds: float, request: Callable[[], T]) -> T:
    """Return what a request returns, in a thread that is left behind if it takes longer.

    Args:
        seconds: Limit, which torch's store does not have for a server that is stopped, or behind a cut cable.
        request: Called without arguments; what it raises is raised here.

    Raises:
        TimeoutError: It has taken longer.
    """
    answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((request(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f'no answer for {seconds:g} s') from None
    if error is not None:
        raise error
    return answer


def is_first_to_say(message: str) -> bool:
    """Return whether no other process of the launch has asked for this message, so that one prints what all find."""
    if not several_processes():
        return True
    try:
        rank = os.environ['RANK']
        return within(REQUEST, lambda: open_store().compare_set(f'said/{message}', '', rank)).decode() == rank
    except (RuntimeError, KeyError, OSError):
        return True


def die_with_parent() -> None:
    """Let the kernel kill this process when torchrun dies, and its forked children (DataLoader workers) with it.

    torchrun ends its processes unless it is killed itself (``kill -9``, out of memory). Linux only. Processes of other
    launchers are left alone, since their parent may be a shell that ends earlier.
    """
    if 'TORCHELASTIC_RUN_ID' in os.environ and sys.platform == 'linux':
        _die_with_parent()
        os.register_at_fork(after_in_child=_die_with_parent)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_process(message: str, status: int, ask_others: bool = True) -> NoReturn:
    """Print a message, kill the DataLoader workers and end this process at once, whatever its threads do.

    An orderly exit of the interpreter may wait for processes that are gone.

    Args:
        message: Goes to stderr, once if several processes end with the same, and into torchrun's table of failures;
            empty if there is nothing to say.
        status: Exit status.
        ask_others: Whether to ask the store if another process has said it.
    """
    sys.stdout.flush()
    if message and (not ask_others or is_first_to_say(message)):
        sys.stderr.write(f'\n[rank {os.environ.get("RANK")}] {message}\n')
        sys.stderr.flush()
    file = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if file and message:
        details = dict(py_callstack=message, timestamp=str(int(time())))
        Path(file).write_text(json.dumps(dict(message=dict(message=message, extraInfo=details))))
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)
