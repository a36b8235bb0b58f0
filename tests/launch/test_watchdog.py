"""Whom the watchdog blames."""

import os
import threading
from collections.abc import Iterator
from time import monotonic
from unittest import mock

import pytest
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.utils import manager

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch import watchdog
from icd_mmrazor.launch.watchdog import Watchdog, _Board, _Report

IN_BACKWARD = ['File "train.py", line 3, in main', 'File "/x/torch/autograd/graph.py", line 9, in _engine_run_backward']
IN_DATASET = ['File "train.py", line 3, in main', 'File "my_dataset.py", line 7, in __getitem__']


@pytest.fixture
def boards() -> Iterator[list[_Board]]:
    """Return the boards of three processes of one launch."""
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    world = dict(WORLD_SIZE='3', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port))
    boards = []
    for rank in range(3):
        with mock.patch.dict(os.environ, world, RANK=str(rank)):
            boards.append(_Board())
    with mock.patch.dict(os.environ, world, RANK='0'):
        yield boards


def post(boards: list[_Board], *reports: _Report | None) -> None:
    for board, report in zip(boards, reports, strict=True):
        if report:
            board.post(report)
    boards[0].read()


def later(board: _Board, seconds: float, but: list[int]) -> None:
    """Let time go by for a board that hears of some."""
    for rank in board._heard_at:
        if rank not in but:
            board._heard_at[rank] -= seconds


def test_who_is_behind_is_waited_for(boards: list[_Board]) -> None:
    waits = _Report(1, 'here', 57, IN_BACKWARD)
    post(boards, waits, _Report(1, 'there', 56, IN_BACKWARD), waits)
    blamed, said = boards[0].who_is_waited_for()
    assert blamed == [1]
    assert said[0].startswith('rank 1 (on there) is what the others wait for. Iteration 57, last seen at:\n    File')


def test_who_is_elsewhere_is_waited_for(boards: list[_Board]) -> None:
    waits = _Report(1, 'here', 57, IN_BACKWARD)
    post(boards, waits, waits, _Report(1, 'here', 57, IN_DATASET))
    blamed, said = boards[0].who_is_waited_for()
    assert blamed == [2]
    assert said[0].endswith('    File "my_dataset.py", line 7, in __getitem__')
    # where all wait, all are named
    post(boards, None, None, _Report(2, 'here', 57, IN_BACKWARD))
    assert boards[0].who_is_waited_for()[0] == [0, 1, 2]


def test_who_is_silent_is_waited_for(boards: list[_Board]) -> None:
    post(boards, _Report(1, 'here', 57, IN_BACKWARD), _Report(1, 'here', 58, IN_DATASET), None)
    later(boards[0], 4, but=[0])
    assert boards[0].who_is_waited_for() is None  # not yet sure
    later(boards[0], 8, but=[0])
    blamed, (first, second) = boards[0].who_is_waited_for()
    assert blamed == [1, 2]
    assert first.startswith('rank 1 (on here) has been silent for 12 s: it is stopped or gone')
    assert 'my_dataset.py' in first
    assert second.startswith('rank 2 has been silent for 12 s')
    assert 'It has not said a word yet.' in second


def test_the_first_to_find_it_ends_the_run(boards: list[_Board]) -> None:
    dog = Watchdog(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=20)))))
    stuck = _Report(1, 'here', 57, IN_BACKWARD, moved_at=monotonic() - 19, still=19.0)
    post(boards, stuck, _Report(1, 'here', 56, IN_DATASET), stuck)
    assert dog._look(boards[0], _Report(2, 'here', 57, IN_BACKWARD, still=17.0)) is None
    message = dog._look(boards[0], stuck)
    assert 'this process has stood still for 19 s (env_cfg.dist_cfg.timeout=20)' in message
    assert 'rank 1 (on here) is what the others wait for' in message
    assert 'Waiting: rank 0, 2.' in message
    assert '--resume' in message
    # the others have nothing to add
    boards[2].read()
    assert dog._look(boards[2], stuck) is None


def test_a_report_says_where_this_process_is() -> None:
    """Also where the main thread holds mmengine's lock, as it does after an error in a constructor."""
    hub = MessageHub.get_instance('test_a_report')
    hub.update_info('iter', 41)
    reports: list[_Report] = [_Report()]

    def look() -> None:
        for _ in range(2):
            reports.append(_Report.of_main_thread(reports[-1]))

    with manager._lock:
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(20)
    _, first, second = reports
    assert (first.number, first.iteration, first.still) == (1, 41, 0.0)
    assert any('test_watchdog.py' in place and 'test_a_report' in place for place in first.places)
    assert str(first).startswith('Iteration 42, last seen at:\n    File "')
    assert second.number == 2
    assert second.places != first.places or second.still > 0


def test_the_thread_ends_a_process_that_waits(boards: list[_Board]) -> None:
    """The whole loop, but for the end itself: the main thread of this process does not move."""
    said, spoken = [], threading.Event()

    def end(message: str, status: int) -> None:
        said.append((message, status))
        dog._ended.set()
        spoken.set()

    dog = Watchdog(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=0.2)))))
    with (
        mock.patch.multiple(watchdog, BEAT=0.01, LATE=0.1, SILENT=0.2, end_process=end),
        dog,
    ):
        assert spoken.wait(20)
    ((message, status),) = said
    assert status == 1
    assert 'rank 1 has been silent for' in message

    # without a store the same process says that
    said.clear(), spoken.clear(), dog._ended.clear()
    refused = mock.patch.object(watchdog, 'open_store', side_effect=RuntimeError('refused\ntrace'))
    with mock.patch.multiple(watchdog, BEAT=0.01, end_process=end), refused, dog:
        assert spoken.wait(20)
    assert 'The store of the launch (MASTER_ADDR 127.0.0.1) does not answer: refused.' in said[0][0]


def test_a_single_process_has_no_watchdog() -> None:
    cfg = Config(dict(model={}))
    before = threading.active_count()
    with Watchdog(cfg):
        assert threading.active_count() == before
    assert cfg.env_cfg.dist_cfg.timeout == 1800


@pytest.mark.parametrize('timeout', [0, -1, '30', True, None], ids=str)
def test_the_timeout_is_a_number_of_seconds(timeout: object) -> None:
    with pytest.raises(SettingError, match=r'env_cfg\.dist_cfg\.timeout=.* must be a number of seconds'):
        Watchdog(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=timeout)))))
