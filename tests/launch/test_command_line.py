"""Messages and exit codes of a tool."""

import argparse
import os
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import parse_options, ranges, run
from icd_mmrazor.launch.signals import wait_for_iterations

LOST = '[/x/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:7000'
UNREACHED = 'Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc:152] timed out connecting'


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('my data/digits.npz', 'my data/digits.npz'),
        ('1', 1),
        (' 0.5', 0.5),
        ('False', False),
        ('None', None),
        ('[1, 2]', [1, 2]),
        ('(a, b)', ('a', 'b')),
        ('a=b', 'a=b'),
        ('', ''),
    ],
)
def test_values_of_options(text: str, value: object) -> None:
    assert parse_options([f'a.b={text}', 'c=1']) == {'a.b': value, 'c': 1}
    assert parse_options([]) is None


@pytest.mark.parametrize('option', ['a.b', '=1'])
def test_options_must_be_key_and_value(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse_options([option])
    assert f"argument --cfg-options: '{option}' is not KEY=VALUE" in capsys.readouterr().err


def test_ranges() -> None:
    assert ranges('0-4,7') == [0, 1, 2, 3, 4, 7]
    assert ranges('3, 5-5') == [3, 5]
    for text in ('3-1', 'a', '1-b', '', '1,,2', '-1'):
        with pytest.raises(argparse.ArgumentTypeError, match='neither a number nor a range'):
            ranges(text)


def end(error: BaseException) -> None:
    raise error


def terminate_with_workers() -> None:
    """Do what a signal to the process group does: it ends DataLoader workers while the interrupt is raised."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Terminated.')


@pytest.mark.parametrize(
    ('main', 'status', 'message'),
    [
        (lambda: end(SettingError('tau=0 is wrong.')), 1, '\nerror: tau=0 is wrong.\n'),
        (lambda: end(KeyboardInterrupt()), 130, '\nstopped by Ctrl-C. Take --resume.\n'),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, '\nstopped by SIGTERM. Take --resume.\n'),
        (terminate_with_workers, 143, '\nstopped by SIGTERM. Take --resume.\n'),
    ],
    ids=['setting', 'ctrl-c', 'sigterm', 'workers'],
)
def test_a_single_process(main: object, status: int, message: str, capsys: pytest.CaptureFixture) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run(main, when_stopped='Take --resume.')
    assert (stop.value.code, capsys.readouterr().err) == (status, message)
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_unforeseen_error_keeps_its_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


@pytest.mark.parametrize(
    ('main', 'reason'),
    [
        # more than there are addresses
        (lambda: torch.empty(2**50), "DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        (lambda: np.empty(2**50), 'Unable to allocate 8.00 PiB'),
        (
            lambda: end(torch.OutOfMemoryError('CUDA out of memory. Tried to allocate\n2.00 GiB.')),
            'allocate 2.00 GiB.\n',
        ),
        (
            lambda: end(RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')),
            'CUBLAS',
        ),
        (lambda: end(MemoryError()), 'error: not enough memory\n'),
    ],
    ids=['cpu', 'numpy', 'gpu', 'cublas', 'python'],
)
def test_a_lack_of_memory_says_what_to_lower(main: object, reason: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run(main)
    printed = capsys.readouterr().err
    assert stop.value.code == 1
    assert reason in printed
    for setting in ('train_dataloader.batch_size', '--amp bf16', 'model.teacher_precision', 'model.teacher_offload'):
        assert setting in printed


def test_a_child_that_is_terminated_says_nothing(capfd: pytest.CaptureFixture) -> None:
    def main() -> None:
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143

    run(main)
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize(
    ('error', 'printed'),
    [
        (SettingError('tau=0 is wrong.'), ['\n[rank 1] error: tau=0 is wrong.\n']),
        (
            RuntimeError('odd'),
            ['[rank 1] Traceback ', 'test_command_line.py', 'RuntimeError: odd'],
        ),
        (
            RuntimeError(UNREACHED),
            ['[rank 1] error: the other processes cannot be reached.', 'GLOO_SOCKET_IFNAME', UNREACHED],
        ),
        (torch.OutOfMemoryError('CUDA out of memory.'), ['[rank 1] error: CUDA out of memory.', 'batch_size']),
        (RuntimeError(LOST), ['[rank 1] error: the connection to another process is lost', LOST]),
        (KeyboardInterrupt(), ['[rank 1] stopped by Ctrl-C. Take --resume.']),
    ],
    ids=['setting', 'unforeseen', 'unreached', 'memory', 'lost', 'ctrl-c'],
)
def test_one_of_several_names_itself(error: BaseException, printed: list[str], tmp_path: Path) -> None:
    file, status = tmp_path / 'stderr', 130 if isinstance(error, KeyboardInterrupt) else 1
    pid = os.fork()
    if pid == 0:
        try:
            with (
                file.open('w') as stream,
                mock.patch('sys.stderr', stream),
                mock.patch('time.sleep'),
                mock.patch.dict(os.environ, RANK='1', WORLD_SIZE='2'),
                mock.patch('icd_mmrazor.launch.processes.open_store', side_effect=RuntimeError),
            ):
                run(lambda: end(error), when_stopped='Take --resume.')
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    text = file.read_text()
    assert all(part in text for part in printed), text
    assert ('Traceback' in text) == ('Traceback' in printed[0])


def test_a_process_that_is_ended_for_another_says_nothing(tmp_path: Path) -> None:
    """It trains, so SIGTERM waits; then it loses the connection to the one that has failed."""

    def main() -> None:
        wait_for_iterations()
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError(LOST)

    file, pid = tmp_path / 'stderr', os.fork()
    if pid == 0:
        try:
            with (
                file.open('w') as stream,
                mock.patch('sys.stderr', stream),
                mock.patch.dict(os.environ, WORLD_SIZE='2'),
            ):
                run(main)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    assert file.read_text() == ''
