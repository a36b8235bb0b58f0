"""Restarts, with a store that this process holds in place of torchrun."""

import copy
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from icd_mmrazor.checkpoints.resuming import checkpoint_to_resume
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.restarts import COUNT, join_start, of_first, resume_after_restart

WHOLE = {'meta': {'epoch': 1, 'iter': 8}, 'state_dict': {}, 'message_hub': {}, 'optimizer': {}}


@pytest.fixture
def store() -> Iterator[dist.Store]:
    """Let this process be one of two that torchrun has started."""
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    world = dict(RANK='0', WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port))
    with mock.patch.dict(os.environ, world, TORCHELASTIC_USE_AGENT_STORE='True', TORCHELASTIC_RESTART_COUNT='0'):
        yield store


def start(rank: int, count: int = 0, seconds: float = 0) -> int:
    """Start a process, of which torchrun counts so many restarts; return how many it agrees on."""
    os.environ.update({'RANK': str(rank), COUNT: str(count)})
    join_start(seconds)
    return int(os.environ[COUNT])


def test_a_machine_that_comes_back_takes_the_number_of_the_others(store: dist.Store) -> None:
    assert [start(0), start(1)] == [0, 0]
    # the machine of rank 1 is replaced: its torchrun counts from 0
    assert [start(0, count=1), start(1, count=0)] == [1, 1]
    assert [start(0, count=2), start(1, count=1)] == [2, 2]


def test_the_first_to_restart_waits_for_rank_0(store: dist.Store) -> None:
    assert [start(0), start(1)] == [0, 0]
    with pytest.raises(SettingError, match=r'rank 1 has restarted, and rank 0 has not.*MAX_RESTARTS'):
        start(1, count=1)
    later = threading.Timer(0.3, lambda: store.set('icd_mmrazor/0/starts/current', '1'))
    later.start()
    assert start(1, count=1, seconds=20) == 1


def test_without_the_store_of_torchrun_its_count_stands(store: dist.Store) -> None:
    with mock.patch.dict(os.environ, TORCHELASTIC_USE_AGENT_STORE='False'):
        assert start(1, count=3) == 3


def test_the_first_process_decides(store: dist.Store) -> None:
    assert of_first('colour', lambda: 'red') == 'red'
    os.environ['RANK'] = '1'
    assert of_first('colour', lambda: 'blue') == 'red'
    with pytest.raises(RuntimeError):
        of_first('size', lambda: 'never asked', seconds=0.1)


@pytest.mark.parametrize(
    ('asked', 'written', 'resumed', 'load_from'),
    [
        # as it was started, until it has written its own checkpoint
        ({}, False, None, None),
        ({}, True, True, None),
        (dict(resume=True), False, True, None),
        (dict(resume=True), True, True, None),
        (dict(resume=True, load_from='a.pth'), False, True, 'a.pth'),
        (dict(resume=True, load_from='a.pth'), True, True, None),
        (dict(load_from='a.pth'), True, True, None),
    ],
)
def test_a_restarted_run_resumes_from_its_own_checkpoint(
    asked: dict,
    written: bool,
    resumed: bool | None,
    load_from: str | None,
    tmp_path: Path,
    store: dist.Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path
    torch.save(WHOLE, path / 'epoch_9.pth')
    (path / 'last_checkpoint').write_text(str(path / 'epoch_9.pth'))
    cfg = Config(dict(work_dir=str(path), **asked))
    resume_after_restart(cfg)
    assert (path / 'last_checkpoint').is_file()  # no restarts, nothing to do
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '2')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    for rank in ('0', '1'):
        monkeypatch.setenv('RANK', rank)
        resume_after_restart(cfg)
    assert cfg.to_dict() == dict(work_dir=str(path), **asked)
    if written:
        (path / 'last_checkpoint').write_text(str(path / 'epoch_1.pth'))
    else:
        # a later --resume of the user's still finds the earlier run
        assert checkpoint_to_resume(str(path)) == str(path / 'epoch_9.pth')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    monkeypatch.setenv('RANK', '0')
    other = copy.deepcopy(cfg)
    resume_after_restart(cfg)
    assert (cfg.get('resume'), cfg.get('load_from')) == (resumed, load_from)
    # on another machine, without the folder
    monkeypatch.setenv('RANK', '1')
    other.work_dir = str(tmp_path / 'elsewhere')
    resume_after_restart(other)
    assert (other.get('resume'), other.get('load_from')) == (resumed, load_from)
