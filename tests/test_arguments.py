"""Any value of any argument is accepted, or refused with the argument's name."""

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import Registry
from mmpretrain.registry import DATASETS, TRANSFORMS
from mmpretrain.registry import MODELS as NETWORKS
from mmrazor.registry import MODELS
from strategies import JUNK
from torch import nn

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.errors import UserError
from icd_mmrazor.memory import out_of_memory

# values of arguments without a default, and smaller ones than the default
VALUES: dict[str, Any] = dict(
    student_shape=(4, 4, 4),
    teacher_shape=(4, 4, 4),
    student_shapes=[(4, 4, 4)] * 2,
    teacher_shapes=[(4, 4, 4)] * 2,
    teacher_classifier=nn.Linear(4, 3),
    teacher_norm=nn.BatchNorm2d(4),
    in_channels=8,
    out_channels=8,
    in_features=8,
    embed_dims=8,
    memory_size=16,
    num_negatives=4,
    num_samples=16,
    depth=8,
    distillers=dict(icd=dict(type='ICDDistiller')),
    losses=dict(sp=dict(loss=dict(type='SPLoss'), features='pooled')),
    data_file='images.npz',
    data_root='nowhere',
)
# those that compare vectors
OF_VECTORS = {'ITRDLoss', 'OrthogonalProjection', 'RSDProjector'}
# classes of these are built with the values above; the other rooms have tests of their own
ROOMS = tuple(
    f'icd_mmrazor.{room}.'
    for room in ('models.losses', 'models.connectors', 'models.distillers', 'models.backbones', 'datasets')
)


def settings_of(cls: Any) -> list[str]:
    """Return the names of a class's settings, without mmengine's init_cfg and what it passes on."""
    return [name for name in inspect.signature(cls).parameters if name not in ('init_cfg', 'args', 'kwargs')]


def bases() -> Iterator[tuple[Registry, dict]]:
    """Yield every registered class of these rooms with a config that builds it."""
    for registry in (MODELS, NETWORKS, DATASETS, TRANSFORMS):
        for name, cls in sorted(registry.module_dict.items()):
            parameters = inspect.signature(cls).parameters
            needed = {n for n in settings_of(cls) if parameters[n].default is inspect.Parameter.empty}
            if f'{cls.__module__}.'.startswith(ROOMS) and needed <= {*VALUES}:
                given = {n: VALUES[n] for n in settings_of(cls) if n in VALUES and (n in needed or n != 'losses')}
                if name in OF_VECTORS:
                    given |= dict(student_shape=(4,), teacher_shape=(4,))
                yield registry, {'type': name, '_scope_': registry.scope, **given}


BASES = list(bases())
ARGUMENTS = [(registry, base, name) for registry, base in BASES for name in settings_of(registry.get(base['type']))]


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / 'images.npz', images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
    monkeypatch.chdir(tmp_path)


def test_the_rooms_are_found() -> None:
    names = {base['type'] for _, base in BASES}
    assert {'ICDLoss', 'VIDLoss', 'LinearProjection', 'ICDDistiller', 'CIFARResNet', 'NPZDataset'} <= names


@pytest.mark.parametrize(('registry', 'base'), BASES, ids=[base['type'] for _, base in BASES])
def test_good_values_are_accepted(registry: Registry, base: dict) -> None:
    if base.get('data_root') == 'nowhere':
        pytest.skip('needs the dataset')
    registry.build(dict(base))


@settings(max_examples=300)
@given(st.sampled_from(ARGUMENTS), JUNK)
def test_any_value_is_accepted_or_refused(place: tuple[Registry, dict, str], junk: object) -> None:
    registry, base, argument = place
    outcome = UserError()
    try:
        with explained_settings():
            registry.build({**base, argument: junk})
    except Exception as error:
        outcome = error
    # a lack of memory is explained at the end of a tool
    assert isinstance(outcome, UserError) or out_of_memory(outcome)


@pytest.mark.parametrize(('registry', 'base', 'argument'), ARGUMENTS, ids=[f'{b["type"]}-{a}' for _, b, a in ARGUMENTS])
def test_a_misspelt_name_is_refused(registry: Registry, base: dict, argument: str) -> None:
    wrong = argument[:-1] + argument[-1] * 2
    with pytest.raises(UserError, match=rf"{wrong}'\. Did you mean .*\b{argument}\b"), explained_settings():
        registry.build({**base, wrong: base.get(argument)})


@pytest.mark.parametrize(
    ('registry', 'base', 'argument'),
    # the others read files when they are built
    [(registry, base, argument) for registry, base, argument in ARGUMENTS if 'data_root' not in base],
    ids=lambda value: value['type'] if isinstance(value, dict) else None,
)
def test_the_default_is_accepted(registry: Registry, base: dict, argument: str) -> None:
    """A package that refused everything would pass the test of any value."""
    default = inspect.signature(registry.get(base['type'])).parameters[argument].default
    registry.build({argument: default, **base})
