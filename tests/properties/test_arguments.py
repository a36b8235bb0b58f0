"""Any value of any argument: taken, or refused with the argument's name."""

import contextlib
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import HOOKS, Registry
from mmpretrain.registry import DATASETS, TRANSFORMS
from mmpretrain.registry import MODELS as NETWORKS
from mmrazor.registry import MODELS
from strategies import JUNK

from icd_mmrazor.errors import UserError

MAP = (4, 4, 4)
# what each class needs to be built
BASES: list[tuple[Registry, str, dict]] = [
    (MODELS, 'ICDLoss', {}),
    (MODELS, 'AttentionTransferLoss', {}),
    (MODELS, 'ActivationBoundaryLoss', {}),
    (MODELS, 'CCLoss', {}),
    (MODELS, 'FactorTransferLoss', {}),
    (MODELS, 'FSPLoss', {}),
    (MODELS, 'NSTLoss', {}),
    (MODELS, 'PKTLoss', {}),
    (MODELS, 'RKDLoss', {}),
    (MODELS, 'SPLoss', {}),
    (MODELS, 'RRDLoss', dict(embed_dims=8, memory_size=16)),
    (MODELS, 'ContrastiveRepresentationLoss', dict(embed_dims=8, num_negatives=4, num_samples=16)),
    (MODELS, 'VIDLoss', dict(teacher_shape=MAP)),
    (MODELS, 'ConvRegressor', dict(student_shape=MAP, teacher_shape=MAP)),
    (MODELS, 'FTParaphraser', dict(teacher_shape=MAP)),
    (MODELS, 'FTTranslator', dict(student_shape=MAP, teacher_shape=MAP)),
    (MODELS, 'LinearProjection', dict(in_features=8)),
    (MODELS, 'VIDRegressor', dict(student_shape=MAP, teacher_shape=MAP)),
    (MODELS, 'ICDDistiller', {}),
    (MODELS, 'MixedDistiller', dict(distillers=dict(icd=dict(type='ICDDistiller')))),
    (MODELS, 'FeatureDistiller', dict(losses=dict(sp=dict(loss=dict(type='SPLoss'), features='pooled')))),
    (NETWORKS, 'CIFARResNet', dict(depth=8)),
    (NETWORKS, 'CIFARVGG', dict(depth=8)),
    (NETWORKS, 'CIFARMobileNetV2', {}),
    (HOOKS, 'StatusHook', {}),
    (HOOKS, 'WholeBatchHook', {}),
    (HOOKS, 'DeferredRuntimeInfoHook', {}),
    (HOOKS, 'Float32PrecisionHook', dict(tf32=True)),
    (DATASETS, 'NPZDataset', dict(data_file='images.npz')),
    (DATASETS, 'STL10', dict(data_root='nowhere')),
    (DATASETS, 'TinyImageNet', dict(data_root='nowhere')),
    (DATASETS, 'VerifiedCIFAR10', dict(data_root='nowhere')),
    (TRANSFORMS, 'ImageAsInDataset', {}),
]
ARGUMENTS = [
    (registry, {'type': name, '_scope_': registry.scope, **base}, argument)
    for registry, name, base in BASES
    for argument in inspect.signature(registry.get(name)).parameters
    if argument not in ('init_cfg', 'kwargs')  # mmengine's, and not a name
]


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / 'images.npz', images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
    monkeypatch.chdir(tmp_path)


@settings(max_examples=300)
@given(st.sampled_from(ARGUMENTS), JUNK)
def test_any_value(place: tuple[Registry, dict, str], junk: object) -> None:
    registry, base, argument = place
    # anything but an error of ours fails
    with contextlib.suppress(UserError):
        registry.build({**base, argument: junk})


@pytest.mark.parametrize(('registry', 'base', 'argument'), ARGUMENTS, ids=[f'{b["type"]}-{a}' for _, b, a in ARGUMENTS])
def test_a_misspelt_name(registry: Registry, base: dict, argument: str) -> None:
    wrong = argument[:-1] + argument[-1] * 2
    with pytest.raises(UserError, match=rf"{base['type']}.*no setting '{wrong}'\. Did you mean .*\b{argument}\b"):
        registry.build({**base, wrong: base.get(argument)})
