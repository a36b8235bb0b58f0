"""Processes of a launch, with a store that this process holds."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch.distributed as dist

from icd_mmrazor.launch.processes import die_with_parent, end_process, is_first_to_say, open_store, within


@pytest.fixture
def launch() -> Iterator[dict[str, str]]:
    """Let this process be rank 1 of 3, with a store."""
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    world = dict(RANK='1', WORLD_SIZE='3', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port))
    with mock.patch.dict(os.environ, world):
        yield world


def test_one_of_several_processes_speaks(launch: dict[str, str]) -> None:
    first = []
    for rank in ('2', '0', '1'):
        with mock.patch.dict(os.environ, RANK=rank):
            first.append(is_first_to_say('the batch size is wrong'))
    assert first == [True, False, False]
    assert is_first_to_say('another message')
    # a restart speaks again
    with mock.patch.dict(os.environ, RANK='0', TORCHELASTIC_RESTART_COUNT='1'):
        assert is_first_to_say('the batch size is wrong')


def test_without_the_store_everyone_speaks(launch: dict[str, str]) -> None:
    with mock.patch('icd_mmrazor.launch.processes.open_store', side_effect=RuntimeError('refused')):
        assert is_first_to_say('a message')
    with mock.patch.dict(os.environ):
        del os.environ['MASTER_ADDR']
        with pytest.raises(KeyError):
            open_store()
        assert is_first_to_say('a message')
        del os.environ['WORLD_SIZE']
        assert is_first_to_say('a message')


def test_a_request_has_a_limited_time() -> None:
    assert within(20, lambda: 'answer') == 'answer'
    with pytest.raises(ZeroDivisionError):
        within(20, lambda: 1 / 0)
    with pytest.raises(TimeoutError, match=r'no answer for 0\.1 s'):
        within(0.1, threading.Event().wait)


def test_a_silent_store_keeps_nobody_from_speaking(launch: dict[str, str]) -> None:
    """Its machine is stopped: the connection is made, and nothing comes back."""
    with (
        socket.create_server(('127.0.0.1', 0)) as stopped,
        mock.patch.dict(os.environ, MASTER_PORT=str(stopped.getsockname()[1])),
        mock.patch('icd_mmrazor.launch.processes.REQUEST', 0.2),
    ):
        assert is_first_to_say('a message')


def forked(function: object) -> int:
    pid = os.fork()
    if pid == 0:
        function()
        os._exit(0)
    return pid


def gone(pid: int) -> bool:
    """Return whether a process ends within a few seconds."""
    for _ in range(100):
        stat = Path(f'/proc/{pid}/stat')
        if not stat.exists() or stat.read_text().rpartition(')')[2].split()[0] in 'ZX':
            return True
        time.sleep(0.05)
    return False


def test_a_process_ends_at_once_with_its_workers(launch: dict[str, str], tmp_path: Path) -> None:
    file, error = tmp_path / 'worker', tmp_path / 'error.json'

    def rank() -> None:
        os.dup2(os.open(tmp_path / 'stderr', os.O_CREAT | os.O_WRONLY), 2)
        worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(1000,), daemon=True)
        worker.start()
        file.write_text(str(worker.pid))
        with mock.patch.dict(os.environ, TORCHELASTIC_ERROR_FILE=str(error)), mock.patch('sys.stderr', open(2, 'w')):
            end_process('error: no memory', 3)

    _, status = os.waitpid(forked(rank), 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert (tmp_path / 'stderr').read_text() == '\n[rank 1] error: no memory\n'
    assert json.loads(error.read_text())['message']['extraInfo']['py_callstack'] == 'error: no memory'
    assert gone(int(file.read_text()))


def test_no_process_outlives_its_launcher(tmp_path: Path) -> None:
    """Nor do its children, whatever they do."""
    file = tmp_path / 'pids'

    def launcher() -> None:
        os.environ['TORCHELASTIC_RUN_ID'] = 'test'
        rank = forked(ranks_main)
        os.waitpid(rank, 0)

    def ranks_main() -> None:
        die_with_parent()
        worker = forked(lambda: time.sleep(1000))
        (tmp_path / 'written').write_text(f'{os.getpid()} {worker}')
        (tmp_path / 'written').rename(file)
        os.kill(os.getpid(), signal.SIGSTOP)

    pid = forked(launcher)
    while not file.exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert all(gone(int(each)) for each in file.read_text().split())
