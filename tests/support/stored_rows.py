"""A small store for tests, whose bytes follow from the row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.multiprocessing import start_processes

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


def assert_right(store: OutputStore, found: Any = None) -> None:
    """Check that each row is right or missing; ``found`` are the rows that must be there."""
    values, there = store.read(ALL)
    assert (values[there] == values_of(ALL)[there]).all() if there.any() else True
    assert not values[~there].any()
    if found is not None:
        assert np.flatnonzero(there).tolist() == sorted(found)
