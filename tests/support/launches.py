"""Processes forked from this one: it has imported the stack, which takes a new process 6 seconds."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers import exit_status
from torch.distributed.launcher import LaunchConfig, elastic_launch
from torch.multiprocessing import start_processes


def in_processes(function: Callable[..., Any], size: int, folder: Path, *args: object) -> list[Any]:
    """Call ``function(rank, *args)`` in each process of a gloo group; return what each returned, by rank.

    Args:
        function: Returns what ``torch.save`` writes as plain values and tensors.
        size: Number of processes.
        folder: A temporary one; gets their files.
        *args: Of the function.
    """
    start_processes(_rank, (function, size, folder, args), size, start_method='fork')
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(size)]


def _rank(rank: int, function: Callable, size: int, folder: Path, args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    os.chdir(folder)  # mmengine collects results in the working folder
    dist.init_process_group('gloo', init_method=f'file://{folder}/address', rank=rank, world_size=size)
    torch.save(function(rank, *args), folder / f'{rank}.pth')
    dist.barrier()
    # no orderly end: it is pytest's
    os._exit(0)


class Launch:
    """A tool under torchrun's agent, which has its own process; its ranks are forked.

    Args:
        log: File for what all of them print.
        size: Number of processes.
        tool: Path of the tool.
        *arguments: Of the tool.
        max_restarts: As torchrun's.
        environment: Variables to set.
    """

    def __init__(
        self, log: Path, size: int, tool: Path, *arguments: object, max_restarts: int = 0, **environment: str
    ) -> None:
        self.log = log
        self.log.touch()
        self.agent = os.fork()
        if self.agent == 0:
            os.setsid()  # a mark of all processes of the launch
            os.environ.update(environment)
            # pytest's keeps what ends a thread to itself
            threading.excepthook = threading.__excepthook__
            with log.open('w') as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=size,
                run_id='test',
                rdzv_backend='c10d',
                rdzv_endpoint='localhost:0',
                max_restarts=max_restarts,
                start_method='fork',
            )
            status = 1
            try:
                elastic_launch(config, _tool)(tool, *arguments)
                status = 0
            except BaseException as error:  # nothing may get back to pytest
                print(error, file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(status)

    def wait(self, seconds: float) -> int:
        """Return the exit status, of a signal its negative number; one that takes longer is killed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.agent, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.agent, signal.SIGKILL)
        os.waitpid(self.agent, 0)
        raise TimeoutError(self.log.read_text())

    def left(self) -> list[int]:
        """Return the processes of the launch that live: ranks, their workers, the agent."""
        states = {int(file.parent.name): _state(file) for file in Path('/proc').glob('[0-9]*/stat')}
        # the agent itself: it may not have started its session yet
        return [pid for pid, (state, session) in states.items() if self.agent in (pid, session) and state not in 'ZX']

    def kill(self) -> None:
        """Kill what is left."""
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_until_gone(self, seconds: float) -> None:
        """Wait until no process of the launch lives."""
        end = time.monotonic() + seconds
        while self.left():
            assert time.monotonic() < end, self.left()
            time.sleep(0.05)


def _state(file: Path) -> tuple[str, int]:
    try:
        # PID (NAME) STATE PARENT GROUP SESSION ...
        state, _, _, session, *_ = file.read_text().rpartition(')')[2].split()
    except OSError:
        return 'X', 0
    return state, int(session)


def _tool(tool: Path, *arguments: object) -> None:
    # the agent's, which a new process would not have
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    sys.exit(exit_status(tool, *arguments, '--launcher', 'pytorch') or 0)
