"""Signals, in processes of their own."""

import os
import signal
from collections.abc import Callable

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from icd_mmrazor.launch.signals import Received, Stopped, spare_workers, stop_signals, wait_for_iterations


def test_sigterm_ends_the_process_unless_a_training_waits() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Stopped, match='SIGTERM') as stop, stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.status == 143
    assert (Received.number, Received.waits) == (0, False)
    with stop_signals():
        wait_for_iterations()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert Received.number == signal.SIGTERM  # the first counts
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


def test_one_of_several_processes_ends_by_sigterm_until_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('WORLD_SIZE', '2')
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        wait_for_iterations()
        os.kill(os.getpid(), signal.SIGTERM)
        assert Received.number == signal.SIGTERM
        wait_for_iterations(False)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigusr1_waits_for_a_training_to_start() -> None:
    with stop_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert Received.number == signal.SIGUSR1


class Pids(Dataset):
    """Items that are the number of the process that loads them, in which a signal is sent before the second."""

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        for number in self.numbers if index == 1 else ():
            os.kill(os.getpid(), number)
        return os.getpid()


def started(worker: int) -> None:
    torch.manual_seed(worker)


@pytest.mark.parametrize('init', [None, started])
def test_workers_survive_the_first_signal(init: Callable | None) -> None:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR1)
    loader = spare_workers(DataLoader(Pids(numbers), num_workers=1, worker_init_fn=init))
    assert len({int(pid) for pid in loader}) == 1


def test_workers_end_at_the_second_sigterm() -> None:
    """As they must if multiprocessing ends those that are stuck."""
    loader = spare_workers(DataLoader(Pids((signal.SIGTERM, signal.SIGTERM)), num_workers=1))
    with pytest.raises(RuntimeError, match=r'exited unexpectedly|killed by signal'):
        list(loader)
