"""Rows of a damaged store are right or missing, and foreign folders stay as they are."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from stored_rows import ALL, PATH, ROWS, assert_right, create, values_of

from icd_mmrazor.errors import CacheError
from icd_mmrazor.models.teacher_cache import store_folder
from icd_mmrazor.models.teacher_cache.store import OutputStore


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    # in place, as a disk does
    with path.open('r+b') as file:
        file.write(content)


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
    with pytest.raises(CacheError, match=f'{folder} has other files.*\\. Give another model.teacher_cache.path'):
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
