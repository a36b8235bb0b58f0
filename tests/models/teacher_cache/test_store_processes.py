"""Several processes share a store, and may end at any time."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from filelock import FileLock
from stored_rows import ALL, FACTS, PATH, ROWS, assert_right, create, in_processes, values_of
from torch.multiprocessing import ProcessExitedException

from icd_mmrazor.errors import CacheError, SettingError
from icd_mmrazor.models.teacher_cache import store_folder
from icd_mmrazor.models.teacher_cache.store import OutputStore


def in_killed_process(function: Callable[[], None]) -> None:
    with pytest.raises(ProcessExitedException) as end:
        in_processes(lambda _: function())
    assert end.value.signal_name == 'SIGKILL'


def kill_at(call: int, monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[..., None] | None = None) -> None:
    """Let a process die in a certain call of a function of ``os``."""
    real, calls = getattr(os, name), iter(range(1, 10**6))

    def dying(*args: Any) -> Any:
        if next(calls) == call:
            if before is not None:
                before(real, *args)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    monkeypatch.setattr(os, name, dying)


def test_processes_write_and_read_the_same_rows_at_once(folder: Path) -> None:
    def work(rank: int) -> None:
        store, generator = create(folder), np.random.default_rng(rank)
        for _ in range(60):
            store.write(rows := generator.integers(0, ROWS, 6), values_of(rows))
            assert store.read(rows)[1].all()
            assert_right(store)
        assert store._damaged == 0

    in_processes(work, 4)
    assert_right(create(folder), ALL)


def test_rows_of_one_process_are_seen_by_another_at_once(folder: Path) -> None:
    store = create(folder)
    assert_right(store, [])
    in_processes(lambda _: create(folder).write(ALL[:9], values_of(ALL[:9])))
    assert_right(store, ALL[:9])
    # a store that was opened before a fork, too
    in_processes(lambda _: store.write(ALL[9:], values_of(ALL[9:])))
    assert_right(store, ALL)


def test_a_folder_is_created_by_one_of_several_processes(folder: Path, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        try:
            store = create(folder, facts={**FACTS, 'run': rank % 2})
        except SettingError as error:
            (tmp_path / f'{rank}.refused').write_text(str(error))
        else:
            store.write(ALL, values_of(ALL))

    in_processes(work, 6)
    assert OutputStore.about(folder)['facts']['run'] in (0, 1)
    texts = [file.read_text() for file in tmp_path.glob('*.refused')]
    assert len(texts) == 3
    assert all('run is' in text for text in texts)
    assert_right(OutputStore.open(folder, {}), ALL)


@pytest.mark.parametrize('part', [0, 9, 8 * 3])
@pytest.mark.parametrize('call', [1, 2, 3, 5, 8])
def test_a_killed_process_loses_at_most_what_it_was_writing(
    call: int, part: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create(folder)
    store.write(ALL[:4], values_of(ALL[:4]))

    def write() -> None:
        kill_at(call, monkeypatch, 'pwrite', lambda real, file, data, place: real(file, data[:part], place))
        for first in range(2, ROWS, 6):
            rows = np.array([first, first + 1, first + 3])
            create(folder).write(rows, values_of(rows))

    in_killed_process(write)
    # two runs of consecutive rows, then their checks: four calls a batch
    before = [row for first in range(2, 2 + 6 * ((call - 1) // 4), 6) for row in (first, first + 1, first + 3)]
    assert set(np.flatnonzero(store.read(ALL)[1])) >= {0, 1, 2, 3, *before}
    assert_right(store)
    again = create(folder)
    assert_right(again)
    again.write(ALL, values_of(ALL))
    assert_right(store, ALL)


@pytest.mark.parametrize('call', [1, 2, 3])
def test_a_killed_creation_is_completed_by_the_next(call: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed() -> None:
        kill_at(call, monkeypatch, 'fsync')
        create(folder, rows=77)

    in_killed_process(killed)
    assert any(folder.iterdir())
    assert OutputStore.about(folder) is None
    with pytest.raises(CacheError, match=PATH):
        OutputStore.open(folder, {})
    # another table, even
    store = create(folder)
    store.write(ALL, values_of(ALL))
    assert_right(create(folder), ALL)


def test_a_folder_that_another_process_creates_meanwhile_is_a_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store_folder._is_free

    def late(path: Path) -> bool:
        monkeypatch.setattr(store_folder, '_is_free', real)
        create(path).write(ALL, values_of(ALL))
        return real(path)

    monkeypatch.setattr(store_folder, '_is_free', late)
    assert_right(create(folder), ALL)


def test_a_folder_that_another_process_creates_before_the_lock_is_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(file: Path) -> FileLock:
        monkeypatch.setattr(store_folder, 'FileLock', FileLock)
        create(folder, facts={'teacher': 'another'}).write(ALL, values_of(ALL))
        return FileLock(file)

    monkeypatch.setattr(store_folder, 'FileLock', late)
    with pytest.raises(SettingError, match="teacher is 'another' there"):
        create(folder, facts={'teacher': 'ours'})
    assert_right(OutputStore.open(folder, {'teacher': 'another'}), ALL)


def test_a_creation_waits_for_that_of_another_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    monkeypatch.setattr(store_folder, 'LOCK_SECONDS', 0.1)
    with FileLock(folder / store_folder.LOCK), pytest.raises(SettingError, match=f'{PATH} {folder} is locked'):
        create(folder)
    create(folder)


def test_a_file_system_without_locks_has_caches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileLock, 'acquire', mock.Mock(side_effect=NotImplementedError))
    create(folder).write(ALL, values_of(ALL))
    assert_right(create(folder), ALL)
