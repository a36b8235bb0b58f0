"""Stored rows come back as they were, from a folder that says what they are."""

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from stored_rows import ALL, FACTS, ROW_BYTES, ROWS, assert_right, create, values_of

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.teacher_cache.store import OutputStore


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
