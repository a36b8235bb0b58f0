"""Modules of tools/benchmarks."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers import TOOLS

from icd_mmrazor import recipes

BENCHMARKS = TOOLS / 'benchmarks'
STAND_IN = Path(__file__).with_name('stand_in_training.py')
# what the studies of the tests train, and for how long
PAIR, EPOCHS = 'res20_res8_digits', 3


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


@pytest.fixture
def arguments(teacher_file: Callable[..., str]) -> list[str]:
    """Two methods and two seeds on a pair whose teacher exists."""
    options = [f'train_cfg.max_epochs={EPOCHS}', f'model.teacher_ckpt={teacher_file("res20")}']
    methods = ['--methods', 'kd+dcd', 'student', '--pairs', PAIR, '--seeds', '0', '1', '--jobs', '2']
    return [*methods, '--work-dir', 'runs', '--cfg-options', *options]


@pytest.fixture
def study(run: ModuleType, tool: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Add a study of three points, and return a function that trains it."""
    parts, options = tool('studies'), ('train_cfg.max_epochs=2',)
    points = {
        'published': parts.Point(('student', 'icd'), options),
        'alpha-1': parts.Point(options=(*options, 'model.distiller.icd.alpha=1')),
        'two': parts.Point(options=options, processes=2),
    }
    axis = parts.Axis('weight', {'0.5': 'published', '1': 'alpha-1'})
    monkeypatch.setitem(parts.STUDIES, 'small', parts.Study('', (PAIR,), points, seeds=(0, 1), axes={'alpha': axis}))
    teacher = Path(recipes.compose(PAIR, ['icd']).model.teacher_ckpt)
    teacher.parent.mkdir(parents=True)
    teacher.touch()
    return lambda *more: run.main(['small', '--jobs', '2', '--work-dir', 'runs', *more])
