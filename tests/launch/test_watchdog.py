"""The rank that the watchdog blames."""

import os
import threading
from collections.abc import Iterator
from unittest import mock

import pytest
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.utils import manager

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch import watchdog
from icd_mmrazor.launch.watchdog import Watchdog, find_stalled_ranks, place_of_main_thread

BACKWARD = ['File "train.py", line 3, in main', 'File "/x/torch/autograd/graph.py", line 9, in _engine_run_backward']
DATASET = ['File "train.py", line 3, in main', 'File "my_dataset.py", line 7, in __getitem__']


@pytest.mark.parametrize(
    ('places', 'stalled'),
    [
        # fewer iterations, wherever it is
        ([('a', 57, BACKWARD), ('b', 56, BACKWARD), ('a', 57, DATASET)], [1]),
        # outside of a collective operation
        ([('a', 57, BACKWARD), ('a', 57, BACKWARD), ('a', 57, DATASET)], [2]),
        ([('a', 57, BACKWARD), ('a', 56, DATASET), ('a', 56, BACKWARD)], [1]),
        # before the first iteration
        ([('a', -1, BACKWARD), ('a', -1, DATASET), ('a', -1, BACKWARD)], [1]),
        # all wait
        ([('a', 57, BACKWARD)] * 3, [0, 1, 2]),
        # no answer says more than anything else
        ([('a', 57, BACKWARD), ('a', 56, DATASET), None], [2]),
        ([None, ('a', 56, DATASET), None], [0, 2]),
    ],
)
def test_stalled_ranks(places: list, stalled: list[int]) -> None:
    assert find_stalled_ranks(dict(enumerate(places))) == stalled


def test_the_place_of_this_process() -> None:
    """Also while the main thread holds mmengine's lock, as it does after an error in a constructor."""
    hub = MessageHub.get_instance('test_the_place')
    hub.update_info('iter', 41)
    places = []
    with manager._lock:
        thread = threading.Thread(target=lambda: places.append(place_of_main_thread()), daemon=True)
        thread.start()
        thread.join(20)
    ((host, iteration, stack),) = places
    assert (bool(host), iteration) == (True, 41)
    assert any('test_watchdog.py' in frame and 'test_the_place' in frame for frame in stack)


@pytest.fixture
def stores() -> Iterator[list[dist.Store]]:
    """Let this process be rank 0 of 3; return connections to the store of the launch."""
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    with mock.patch.dict(os.environ, RANK='0', WORLD_SIZE='3', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port)):
        yield [watchdog.open_store()]


def said(timeout: float, seconds: float = 20, **patches: object) -> list[tuple[str, int]]:
    """Let the main thread stand still until the watchdog has ended the process."""
    messages, spoken = [], threading.Event()

    def end(message: str, status: int, ask_others: bool) -> None:
        messages.append((message, status))
        spoken.set()
        dog._ended.set()

    dog = Watchdog(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=timeout)))))
    with mock.patch.multiple(watchdog, BEAT=0.01, ANSWER=0.2, end_process=end, **patches), dog:
        spoken.wait(seconds)
    return messages


def test_the_thread_ends_a_process_that_waits(stores: list[dist.Store]) -> None:
    stores[0].set('1', '["there", 41, ["File \\"train.py\\"", "File \\"my_dataset.py\\""]]')
    stores[0].set('2', '["here", 99, ["File \\"/x/torch/distributed/c10d.py\\""]]')
    MessageHub.get_instance('test_the_thread').update_info('iter', 99)
    (message, status), *_ = said(timeout=0.2)
    assert status == 1
    for part in (
        'env_cfg.dist_cfg.timeout=0.2',
        'rank 1 (on there)',
        'my_dataset.py',
        'Waiting: rank 0, 2.',
        '--resume',
    ):
        assert part in message


def test_silent_ranks_are_named(stores: list[dist.Store]) -> None:
    stores[0].set('host/1', 'there')
    (message, _), *_ = said(timeout=0.2)
    assert 'rank 1 (on there) does not answer' in message
    assert 'rank 2 (on a machine that has not joined) does not answer' in message
    assert 'Waiting: rank 0.' in message


def test_a_process_that_is_asked_answers_and_goes_on(stores: list[dist.Store]) -> None:
    """It does not end by itself: the one that asks does, or the launcher."""
    stores[0].set('asked', '')
    dog = Watchdog(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=1000)))))
    with mock.patch.multiple(watchdog, BEAT=0.01, ANSWER=0.01), dog:
        stores[0].wait(['0'])
    assert not stores[0].check(['spoken'])


def test_one_process_speaks(stores: list[dist.Store]) -> None:
    stores[0].compare_set('spoken', '', '1')
    assert said(timeout=0.01, seconds=1) == []


def test_a_store_that_is_gone(stores: list[dist.Store]) -> None:
    refused = mock.Mock(side_effect=RuntimeError('refused'))
    (message, _), *_ = said(timeout=0.2, open_store=refused)
    assert 'The store of the launch (MASTER_ADDR 127.0.0.1) does not answer' in message
    assert '(refused)' in message


def test_a_store_that_is_silent(stores: list[dist.Store]) -> None:
    """As one whose machine is stopped: the request never returns."""
    (message, _), *_ = said(timeout=0.2, SILENCE=0.3, open_store=mock.Mock(side_effect=threading.Event().wait))
    assert 'The store of the launch (MASTER_ADDR 127.0.0.1) does not answer' in message
    assert 'silent for ' in message


def test_a_single_process_has_no_watchdog() -> None:
    cfg = Config(dict(model={}))
    before = threading.active_count()
    with Watchdog(cfg):
        assert threading.active_count() == before
    assert cfg.env_cfg.dist_cfg.timeout == 1800


@pytest.mark.parametrize('timeout', [0, -1, '30', True, None], ids=str)
def test_the_timeout_is_a_number_of_seconds(timeout: object) -> None:
    with pytest.raises(SettingError, match=r'env_cfg\.dist_cfg\.timeout='):
        Watchdog(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=timeout)))))
