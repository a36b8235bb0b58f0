"""Stores for tests, and what they log."""

import logging
from pathlib import Path

import pytest
from stored_rows import ALL, create, values_of

from icd_mmrazor.models.teacher_cache import store as store_module
from icd_mmrazor.models.teacher_cache.store import OutputStore


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
