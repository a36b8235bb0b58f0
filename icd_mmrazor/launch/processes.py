"""Processes that a launcher has started together."""

import ctypes
import json
import multiprocessing
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from time import time
from typing import NoReturn

import torch.distributed as dist

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def several_processes() -> bool:
    """Return whether a launcher has started this process together with others."""
    return int(os.environ.get('WORLD_SIZE', 1)) > 1


def open_store(seconds: float = 5.0) -> dist.Store:
    """Connect to the key-value store of the launch, which torchrun or rank 0 holds; each request has some seconds.

    A separate connection does not wait behind the requests of other threads. Each restart has its own keys.

    Raises:
        RuntimeError: It does not answer.
        KeyError: The environment does not say where it is.
    """
    address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=seconds))
    return dist.PrefixStore(f'icd_mmrazor/{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)


def is_first_to_say(message: str) -> bool:
    """Return whether no other process of the launch has asked for this message, so that one prints what all find."""
    if not several_processes():
        return True
    try:
        rank = os.environ['RANK']
        return open_store().compare_set(f'said/{message}', '', rank).decode() == rank
    except (RuntimeError, KeyError):
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


def end_process(message: str, status: int) -> NoReturn:
    """Print a message, kill the DataLoader workers and end this process at once, whatever its threads do.

    An orderly exit of the interpreter may wait for processes that are gone.

    Args:
        message: Goes to stderr, once if several processes end with the same, and into torchrun's table of failures.
        status: Exit status.
    """
    sys.stdout.flush()
    if is_first_to_say(message):
        sys.stderr.write(f'\n[rank {os.environ.get("RANK")}] {message}\n')
        sys.stderr.flush()
    file = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if file:
        details = dict(py_callstack=message, timestamp=str(int(time())))
        Path(file).write_text(json.dumps(dict(message=dict(message=message, extraInfo=details))))
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)
