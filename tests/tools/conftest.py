"""Modules of tools/benchmarks."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers import TOOLS

BENCHMARKS = TOOLS / 'benchmarks'
STAND_IN = Path(__file__).with_name('stand_in_training.py')


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of tools/benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def run(tool: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return the runner, with a stand-in for the trainings, in an empty folder."""
    run = tool('run')
    monkeypatch.setattr(run, 'FRONT', STAND_IN)
    monkeypatch.chdir(tmp_path)
    return run
