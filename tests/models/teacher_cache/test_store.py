"""Stored rows are right or missing, whatever happens to the process, the disk or the files."""

import copy
import errno
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from filelock import FileLock
from torch.multiprocessing import ProcessExitedException, start_processes

from icd_mmrazor.errors import CacheError, SettingError
from icd_mmrazor.models.teacher_cache import store as store_module
from icd_mmrazor.models.teacher_cache import store_folder
from icd_mmrazor.models.teacher_cache.store import OutputStore

ROWS, ROW_BYTES = 40, 21
FACTS = {
    'teacher': {'weights': '1a2b', 'network': 'res20'},
    'images': {'number': 5, 'pipeline': [{'type': 'Crop', 'padding': 4}, {'type': 'Flip', 'prob': 0.5}]},
}
ALL = np.arange(ROWS)
GB = 10**9
PATH = r'model\.teacher_cache\.path'


def values_of(rows: Any, width: int = ROW_BYTES) -> np.ndarray:
    """Return what is stored in these tests: bytes that follow from the row."""
    return np.stack([np.random.default_rng(int(row)).integers(0, 256, width, np.uint8) for row in rows])


def create(folder: Path, rows: int = ROWS, row_bytes: int = ROW_BYTES, **settings: Any) -> OutputStore:
    return OutputStore(folder, rows, row_bytes, **{'facts': FACTS, 'max_size': GB, **settings})


def in_processes(function: Callable[[int], None], number: int = 1) -> None:
    """Call a function in several processes at once; an error in one of them is an error here."""
    start_processes(function, nprocs=number, start_method='fork')


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


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    # in place, as a disk does
    with path.open('r+b') as file:
        file.write(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / 'runs' / 'cache'


@pytest.fixture
def full(folder: Path) -> OutputStore:
    """A store of which all rows are stored."""
    store = create(folder)
    assert store.write(ALL, values_of(ALL))
    return store


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    lines = []

    def add(message: str, logger: str, level: int = logging.INFO) -> None:
        lines.append((level, message))

    monkeypatch.setattr(store_module, 'print_log', add)
    return lines


def assert_right(store: OutputStore, found: Any = None) -> None:
    """Check that each row is right or missing; ``found`` are the rows that must be there."""
    values, there = store.read(ALL)
    assert (values[there] == values_of(ALL)[there]).all() if there.any() else True
    assert not values[~there].any()
    if found is not None:
        assert np.flatnonzero(there).tolist() == sorted(found)


# reading and writing


@pytest.mark.parametrize('row_bytes', [1, 7, 8, 20, 1424])
def test_rows_come_back_as_written_in_any_order(row_bytes: int, folder: Path) -> None:
    store = create(folder, row_bytes=row_bytes)
    assert (store.filled, store.complete) == (0, False)
    written = np.array([7, 3, 4, 5, 39, 0, 3])
    assert store.write(written, values_of(written, row_bytes))
    assert (store.filled, store.complete) == (6, False)
    asked = np.array([39, 1, 5, 5, 3, 38, 0])
    values, found = store.read(asked)
    assert (values.dtype, values.shape, values.flags.c_contiguous) == (np.uint8, (7, row_bytes), True)
    assert found.tolist() == [True, False, True, True, True, False, True]
    assert (values[found] == values_of(asked[found], row_bytes)).all()
    assert not values[~found].any()
    store.write(ALL, values_of(ALL, row_bytes))
    assert store.complete
    # all of it is in the files
    values, found = create(folder, row_bytes=row_bytes).read(ALL)
    assert found.all()
    assert (values == values_of(ALL, row_bytes)).all()


def test_an_empty_batch_is_read_and_written(folder: Path) -> None:
    store = create(folder)
    none = np.zeros(0, np.int64)
    assert store.write(none, np.zeros((0, ROW_BYTES), np.uint8))
    values, found = store.read(none)
    assert (values.shape, found.shape) == ((0, ROW_BYTES), (0,))


def test_rows_of_zeros_are_stored_rows(folder: Path) -> None:
    store = create(folder)
    store.write(ALL[:3], np.zeros((3, ROW_BYTES), np.uint8))
    assert store.read(ALL[:4])[1].tolist() == [True, True, True, False]
    # even if their sum happens to be 0
    store._row_factor = np.uint64(0)
    store.write(ALL[:3], np.zeros((3, ROW_BYTES), np.uint8))
    assert store.read(ALL[:4])[1].tolist() == [True, True, True, False]


def test_rows_and_values_that_do_not_fit_are_refused(full: OutputStore) -> None:
    for row in (-1, ROWS):
        with pytest.raises(IndexError):
            full.read(np.array([0, row]))
        with pytest.raises(IndexError):
            full.write(np.array([row]), values_of([0]))
    for values in (values_of([0])[:, 1:], values_of([0, 1]), values_of([0]).view(np.int8)):
        with pytest.raises(ValueError, match='uint8 values of shape'):
            full.write(np.array([0]), values)
    assert_right(full, ALL)


def test_consecutive_rows_are_written_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, calls, real = create(folder), [], os.pwrite
    monkeypatch.setattr(os, 'pwrite', lambda file, data, place: calls.append(place) or real(file, data, place))
    store.write(rows := np.array([12, 30, 10, 11, 31]), values_of(rows))
    assert calls == [10 * 24, 30 * 24, 10 * 8, 30 * 8]
    assert_right(store, rows)


def test_a_write_that_the_system_cuts_short_continues(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = create(folder), os.pwrite
    monkeypatch.setattr(os, 'pwrite', lambda file, data, place: real(file, data[:5], place))
    assert store.write(ALL, values_of(ALL))
    assert_right(store, ALL)


def test_copies_share_the_store_and_pickles_open_it_again(full: OutputStore) -> None:
    assert copy.deepcopy({'store': full})['store'] is full
    again = pickle.loads(pickle.dumps(full))
    assert (again.folder, again.facts, again.size) == (full.folder, full.facts, full.size)
    assert_right(again, ALL)


# several processes


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


# damage


def test_each_bit_of_a_row_and_of_its_check_is_protected(full: OutputStore, log: list) -> None:
    row, others = 6, np.delete(ALL, 6)
    for name, width, bits in ((store_folder.ROWS, 24, 8 * 24), (store_folder.CHECKS, 8, 64)):
        for bit in range(8 * width * row, 8 * width * row + bits):
            flip(full.folder / name, bit)
            assert_right(full, others)
            flip(full.folder / name, bit)
    assert_right(full, ALL)


@pytest.mark.parametrize('bit', range(64))
def test_a_bit_in_the_check_of_a_missing_row_gives_no_row(bit: int, folder: Path) -> None:
    store = create(folder)
    flip(folder / store_folder.CHECKS, 64 * 6 + bit)
    assert_right(store, [])


def test_a_row_in_the_place_of_another_is_not_used(full: OutputStore) -> None:
    for name, width in ((store_folder.ROWS, 24), (store_folder.CHECKS, 8)):
        path = full.folder / name
        content = path.read_bytes()
        rows = [content[start : start + width] for start in range(0, len(content), width)]
        rows[3], rows[20] = rows[20], rows[3]
        with path.open('r+b') as file:
            file.write(b''.join(rows))
        # first without their checks, then with them
        assert_right(full, np.delete(ALL, [3, 20]))


@pytest.mark.parametrize('name', [store_folder.ROWS, store_folder.CHECKS])
def test_zeros_after_a_power_cut_are_missing_rows(name: str, full: OutputStore) -> None:
    """The size of a file is on the disk, and its last pages are not."""
    path = full.folder / name
    size = path.stat().st_size
    width = size // ROWS
    with path.open('r+b') as file:
        file.truncate(30 * width)
        file.truncate(size)
    assert_right(full, ALL[:30])
    assert_right(create(full.folder), ALL[:30])


def test_damaged_rows_are_reported_and_written_again(full: OutputStore, log: list) -> None:
    for row in (3, 9):
        flip(full.folder / store_folder.ROWS, 8 * 24 * row)
    for _ in range(5):
        assert_right(full, np.delete(ALL, [3, 9]))
    assert [level for level, _ in log] == [logging.WARNING]
    assert str(full.folder) in log[0][1]
    assert '2 rows' in log[0][1]
    full.write(ALL[[3, 9]], values_of([3, 9]))
    assert_right(full, ALL)
    for row in range(30):
        flip(full.folder / store_folder.ROWS, 8 * 24 * row)
    assert_right(full, ALL[30:])
    assert '40 rows' in log[1][1]
    assert len(log) == 2


@pytest.mark.parametrize('name', [store_folder.ROWS, store_folder.CHECKS])
@pytest.mark.parametrize('change', [-1, 8, None], ids=['truncated', 'longer', 'deleted'])
def test_files_of_another_size_are_refused(name: str, change: int | None, full: OutputStore) -> None:
    path = full.folder / name
    if change is None:
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size + change)
    for again in (lambda: create(full.folder), lambda: OutputStore.open(full.folder, {})):
        with pytest.raises(CacheError, match=f'{path}.*Delete the folder.*model.teacher_cache.path'):
            again()


def test_each_bit_of_about_is_protected(full: OutputStore) -> None:
    path = full.folder / store_folder.ABOUT
    about, content = OutputStore.about(full.folder), path.read_bytes()
    harmless = 0
    for bit in range(8 * len(content)):
        flip(path, bit)
        try:
            found, message = OutputStore.about(full.folder), ''
        except CacheError as error:
            found, message = None, str(error)
        flip(path, bit)
        harmless += found == about
        assert found == about or (str(full.folder) in message and 'model.teacher_cache.path' in message)
    # white space, which may become another one
    assert harmless < len(content) / 2
    assert_right(create(full.folder), ALL)


def test_another_version_is_refused_by_its_number(full: OutputStore) -> None:
    path = full.folder / store_folder.ABOUT
    path.write_text(json.dumps({**json.loads(path.read_text()), 'version': 2}))
    with pytest.raises(CacheError, match='version 2'):
        create(full.folder)


@pytest.mark.parametrize('content', [b'', b'[1, 2]', b'{"version": 1}', b'\xff', b'[' * 100_000])
def test_the_about_of_something_else_is_refused(content: bytes, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / store_folder.ABOUT).write_bytes(content)
    for again in (lambda: create(folder), lambda: OutputStore.open(folder, {}), lambda: OutputStore.about(folder)):
        with pytest.raises(CacheError, match=PATH):
            again()
    assert [file.name for file in folder.iterdir()] == [store_folder.ABOUT]
    assert (folder / store_folder.ABOUT).read_bytes() == content


@pytest.mark.parametrize('name', ['notes.txt', store_folder.ROWS, store_folder.CHECKS])
def test_a_folder_with_other_files_stays_as_it_is(name: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_text('mine')
    with pytest.raises(CacheError, match=f'{folder}.*model.teacher_cache.path'):
        create(folder)
    assert [file.name for file in folder.iterdir()] == [name]
    assert (folder / name).read_text() == 'mine'


def test_rows_without_about_are_not_taken_for_those_of_another_teacher(full: OutputStore) -> None:
    (full.folder / store_folder.ABOUT).unlink()
    with pytest.raises(CacheError, match=PATH):
        create(full.folder, facts={'teacher': 'another'})


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('mine')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'cache'):
        with pytest.raises(CacheError, match=PATH):
            create(path)
    assert (tmp_path / 'file').read_text() == 'mine'


# space


def test_the_size_is_that_of_the_files_and_rows_take_space_once_they_are_stored(folder: Path) -> None:
    store = create(folder, rows=100_000, row_bytes=1001)
    rows, checks = ((folder / name).stat() for name in (store_folder.ROWS, store_folder.CHECKS))
    assert store.size == rows.st_size + checks.st_size == 100_000 * (1008 + 8)
    assert rows.st_blocks * 512 < 100_000
    assert checks.st_blocks * 512 >= 100_000 * 8


def test_more_than_max_size_is_refused_before_anything_is_made(folder: Path) -> None:
    size = ROWS * (24 + 8)
    with pytest.raises(SettingError, match=r'model\.teacher_cache\.max_size is 1\.279e-06 GB.* 1\.28e-06 GB.*top_k'):
        create(folder, max_size=size - 1)
    assert not folder.exists()
    assert create(folder, max_size=size).size == size


def test_more_than_the_disk_has_is_refused_unless_it_is_written_already(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(number: int) -> None:
        monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=number))

    table = dict(rows=1000, row_bytes=4088)
    size, rows = 1000 * 4096, np.arange(1000)
    free(size - 1)
    with pytest.raises(SettingError, match=r'model\.teacher_cache\.path.* GB more.* GB free.*max_size|top_k'):
        create(folder, **table)
    assert OutputStore.about(folder) is None
    free(size)
    store = create(folder, **table)
    store.write(rows[:500], np.zeros((500, 4088), np.uint8))
    free(size // 2 + 8192)
    create(folder, **table)
    free(size // 4)
    with pytest.raises(SettingError, match=PATH):
        create(folder, **table)
    # nothing more is written to these
    OutputStore.open(folder, {})
    store.write(rows, np.zeros((1000, 4088), np.uint8))
    free(0)
    assert create(folder, **table).complete
    # a file system may find that zeros take no space
    os.truncate(folder / store_folder.ROWS, 0)
    os.truncate(folder / store_folder.ROWS, 1000 * 4088)
    assert create(folder, **table).read(rows)[1].all()


def fill_until_full(store: OutputStore) -> int:
    """Return the number of the last row that was written."""
    for row in range(ROWS):
        if not store.write(np.array([row]), values_of([row])):
            return row
    raise AssertionError('nothing was full')


def test_a_file_that_cannot_grow_ends_writing_with_one_warning(folder: Path, log: list) -> None:
    """With a limit of the system, which gives half a row."""

    def work(_: int) -> None:
        store = create(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * 24 + 11, resource.RLIM_INFINITY))
        assert fill_until_full(store) == 10
        for _ in range(3):
            assert not store.write(ALL, values_of(ALL))
        ((level, text),) = log
        assert level == logging.WARNING
        assert os.strerror(errno.EFBIG) in text
        assert f'10 of {ROWS} rows' in text
        assert str(folder) in text
        assert_right(store, range(10))

    in_processes(work)
    # there is room again
    store = create(folder)
    assert_right(store, range(10))
    assert store.write(ALL, values_of(ALL))
    assert_right(store, ALL)


def test_a_full_disk_ends_writing_with_one_warning(folder: Path, log: list) -> None:
    store = create(folder)
    store.write(ALL[:5], values_of(ALL[:5]))
    # what is written to it gives the error of a full disk
    device = os.open('/dev/full', os.O_RDWR)
    os.dup2(device, store._rows_file)
    os.close(device)
    assert not store.write(ALL, values_of(ALL))
    assert not store.write(ALL, values_of(ALL))
    ((level, text),) = log
    assert (level, os.strerror(errno.ENOSPC) in text) == (logging.WARNING, True)
    assert_right(store, range(5))


# folders that cannot be written


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users reach, too; those of pytest are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / 'cache'


def in_process_that_may_only_read(folder: Path, function: Callable[[], None]) -> None:
    paths = (folder, *folder.iterdir())
    for path in paths:
        path.chmod(0o555)

    def work(_: int) -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        function()

    in_processes(work)
    for path in paths:
        path.chmod(0o755)


def test_a_read_only_folder_is_read(reachable: Path, log: list) -> None:
    create(reachable).write(ALL, values_of(ALL))

    def work() -> None:
        folder = reachable
        for store in (pickle.loads(pickle.dumps(OutputStore.open(folder, FACTS))), create(folder)):
            log.clear()
            assert_right(store, ALL)
            assert not store.write(ALL, values_of(ALL))
            assert not store.write(ALL, values_of(ALL))
            assert len(log) == 1
            assert 'read-only' in log[0][1]

    before = [file.stat().st_mtime_ns for file in reachable.iterdir()]
    in_process_that_may_only_read(reachable, work)
    assert [file.stat().st_mtime_ns for file in reachable.iterdir()] == before


def test_a_cache_is_not_created_where_nothing_can_be_written(reachable: Path) -> None:
    reachable.mkdir()

    def work() -> None:
        for path in (reachable, reachable / 'cache'):
            with pytest.raises(SettingError, match=PATH):
                create(path)

    in_process_that_may_only_read(reachable, work)
    assert not any(reachable.iterdir())


# facts


def test_a_store_is_opened_with_any_part_of_its_facts(full: OutputStore) -> None:
    folder = full.folder
    assert OutputStore.about(folder) == dict(version=1, rows=ROWS, row_bytes=ROW_BYTES, facts=FACTS)
    for facts in ({}, {'teacher': {}}, {'teacher': {'weights': '1a2b'}}, {'images': FACTS['images']}, FACTS):
        for store in (OutputStore.open(folder, facts), create(folder, facts=facts)):
            assert (store.rows, store.row_bytes, store.size, store.facts) == (ROWS, ROW_BYTES, full.size, FACTS)
            assert_right(store, ALL)
    # as JSON has them
    assert OutputStore.open(folder, {'images': {'pipeline': tuple(FACTS['images']['pipeline'])}}).complete


@pytest.mark.parametrize(
    ('facts', 'message'),
    [
        ({'teacher': {'weights': '3c4d'}}, "teacher.weights is '1a2b' there, '3c4d' here"),
        ({'teacher': {'depth': 3}}, 'teacher.depth is not set there, 3 here'),
        ({'teacher': 'res20'}, "teacher is not set there, 'res20' here"),
        ({'images': {'pipeline': []}}, "images.pipeline.0.type is 'Crop' there, not set here"),
        ({'images': {'pipeline': FACTS['images']['pipeline'][:1]}}, "images.pipeline.1.type is 'Flip' there, not set"),
        ({'images': {'pipeline': [{'type': 'Crop'}, {'type': 'Flip', 'prob': 0.5}]}}, 'pipeline.0.padding is 4 there'),
        ({'images': {'pipeline': [*FACTS['images']['pipeline'], {}]}}, 'images.pipeline'),
        ({'images': {'number': 5, 'mean': [0.1] * 99}}, r'images.mean is not set there, \[0.1, .*\.\.\. here'),
    ],
)
def test_facts_that_differ_are_named(facts: dict, message: str, full: OutputStore) -> None:
    for again in (lambda: create(full.folder, facts=facts), lambda: OutputStore.open(full.folder, facts)):
        with pytest.raises(SettingError, match=message) as raised:
            again()
        assert 'model.teacher_cache.path' in str(raised.value)
        assert str(full.folder) in str(raised.value)
        assert len(str(raised.value)) < 600 + len(str(full.folder))


def test_sizes_that_differ_are_named(full: OutputStore) -> None:
    with pytest.raises(SettingError, match='rows is 40 there, 41 here; row_bytes is 21 there, 22 here'):
        create(full.folder, rows=41, row_bytes=22)
    assert_right(create(full.folder), ALL)


def test_at_most_four_differences_are_shown(folder: Path) -> None:
    create(folder, facts=dict.fromkeys('abcdefg', 1))
    with pytest.raises(SettingError, match=r'a is 1 there, 2 here; .*d is 1 there, 2 here; 3 more') as raised:
        create(folder, facts=dict.fromkeys('abcdefg', 2))
    assert 'e is' not in str(raised.value)
