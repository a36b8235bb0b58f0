"""Stores on small disks, full ones and those that cannot be written."""

import errno
import logging
import os
import pickle
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from stored_rows import ALL, FACTS, PATH, ROWS, assert_right, create, in_processes, values_of

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.teacher_cache import store_folder
from icd_mmrazor.models.teacher_cache.store import OutputStore


def test_the_size_is_that_of_the_files_and_rows_take_space_once_they_are_stored(folder: Path) -> None:
    store = create(folder, rows=100_000, row_bytes=1001)
    rows, checks = ((folder / name).stat() for name in (store_folder.ROWS, store_folder.CHECKS))
    assert store.size == rows.st_size + checks.st_size == 100_000 * (1008 + 8)
    assert rows.st_blocks * 512 < 100_000
    assert checks.st_blocks * 512 >= 100_000 * 8


def test_more_than_max_size_is_refused_before_anything_is_made(folder: Path) -> None:
    size = ROWS * (24 + 8)
    with pytest.raises(SettingError, match=r'model\.teacher_cache\.max_size is 1\.279 KB.* 1\.28 KB.*top_k'):
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
    with pytest.raises(
        SettingError, match=r'model\.teacher_cache\.path .* 4\.096 MB more, .* 4\.096 MB free\. Make room.*top_k'
    ):
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
