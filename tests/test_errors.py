"""Each exception of the package is one that something raises."""

import importlib
import inspect
import math
import os
import pkgutil
import signal
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

import icd_mmrazor
from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.datasets import NotInMemoryError
from icd_mmrazor.datasets.pipelines import split_pipelines
from icd_mmrazor.engine.checks import NumberCheck
from icd_mmrazor.errors import CacheError, CheckpointError, DatasetError, NonFiniteLossError, SettingError, UserError
from icd_mmrazor.launch.signals import Stopped, stop_signals
from icd_mmrazor.models.losses import ContrastiveRepresentationLoss, ICDLoss
from icd_mmrazor.models.teacher_cache.store import OutputStore


def lose_the_loss() -> None:
    runner = SimpleNamespace(hooks=[], iter=0, epoch=0, work_dir='no such folder')
    NumberCheck().after_train_iter(runner, 0, outputs=dict(loss=math.nan))


def be_terminated() -> None:
    with stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)


RAISED_BY: dict[type[BaseException], Callable[[], object]] = {
    SettingError: lambda: ICDLoss(alpha=-1.0),
    CheckpointError: lambda: read_checkpoint('no such file.pth'),
    CacheError: lambda: OutputStore.open('no such folder', {}),
    DatasetError: lambda: ContrastiveRepresentationLoss().set_dataset(torch.zeros(4, dtype=torch.int64)),
    NonFiniteLossError: lose_the_loss,
    NotInMemoryError: lambda: split_pipelines([1, 2, 3]),
    Stopped: be_terminated,
}


def test_each_exception_is_raised_by_something() -> None:
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(icd_mmrazor.__path__, 'icd_mmrazor.')]
    classes = {cls for module in modules for _, cls in inspect.getmembers(module, inspect.isclass)}
    own = {cls for cls in classes if issubclass(cls, BaseException) and cls.__module__.startswith('icd_mmrazor')}
    # what only stands for others is caught, not raised
    assert own - {UserError} == RAISED_BY.keys(), 'a new exception needs a call that raises it in RAISED_BY'


@pytest.mark.parametrize('error', RAISED_BY, ids=lambda cls: cls.__name__)
def test_exceptions_are_raised(error: type[BaseException]) -> None:
    with pytest.raises(error) as raised:
        RAISED_BY[error]()
    assert raised.type is error


@pytest.mark.parametrize(
    ('error', 'builtin'),
    [
        (SettingError, ValueError),
        (CheckpointError, RuntimeError),
        (DatasetError, RuntimeError),
        (CacheError, RuntimeError),
    ],
    ids=lambda cls: cls.__name__,
)
def test_errors_of_users_are_caught_by_one_name(error: type[Exception], builtin: type[Exception]) -> None:
    for name in (UserError, builtin):
        with pytest.raises(name, match=r'\w'):
            RAISED_BY[error]()
