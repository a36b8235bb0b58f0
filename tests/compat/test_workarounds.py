"""What this package works around is broken in the installed stack; an entry whose test fails here can be deleted.

The problems are tried in one process of the raw stack (``raw_stack.py``), except for those that are seen here as well.
"""

import importlib
import importlib.metadata
import inspect
import json
import os
import pkgutil
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import ROOT, run_python
from mmengine.registry import DefaultScope
from mmengine.utils import digit_version
from mmrazor.registry import MODELS
from raw_stack import BREAKS

from icd_mmrazor import compat

INSTALLED = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
FAMILY = 'onedl' if 'onedl-mmengine' in INSTALLED else 'openmmlab'
PAGE = ROOT / 'docs' / 'reference' / 'workarounds.md'
# broken in one of the two families only
ONLY = {
    'silenced_onedl_notice': 'onedl',
    'patch_package_lookup': 'openmmlab',
    'load_checkpoints_as_plain_weights__fallback': 'onedl',
    'load_checkpoints_as_plain_weights__own': 'openmmlab',
    'measure_searches_with_a_new_numpy': 'openmmlab',
}
WITHOUT_A_GPU = ('channels_last_is_sound', 'process_group')
# of 1.0.20 and 1.0.26 the first unpickles what a config names; for who has an older one than the tests
BEFORE_TIMM = {'refuse_pickles_of_timm': '1.0.26'}
# what NumPy 2.4 has removed
WITH_NEW_NUMPY = {'measure_searches_with_a_new_numpy'}
# they work around nothing: the two lists, the checks that there is a stack, and a question
NO_WORKAROUNDS = {'prepare', 'runtime', 'require_stack', 'require_torch'}
# workarounds that are classes or functions of other rooms
ELSEWHERE = {'AtomicBackend', 'IntactCheckpointHook', 'ToolRunner', 'explained_settings'}


@pytest.fixture(scope='module')
def raw_stack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool | str]:
    """Return for each problem whether it is there, or why it could not be tried."""
    folder = tmp_path_factory.mktemp('raw_stack')
    with mock.patch.dict(os.environ):
        # of this process, in which limit_images has set it
        os.environ.pop('OPENCV_IO_MAX_IMAGE_PIXELS', None)
        # the kernel that writes beyond its memory is that of CPUs with AVX2, which newer ones have too
        settings = dict(OMP_NUM_THREADS='1', ONEDNN_MAX_CPU_ISA='AVX2')
        process = run_python(ROOT / 'tests' / 'support' / 'raw_stack.py', folder, cwd=folder, **settings)
    assert process.returncode == 0, process.stderr
    return json.loads((folder / 'breaks.json').read_text())


@pytest.mark.slow
@pytest.mark.parametrize('name', BREAKS)
def test_is_broken_without_this_package(name: str, raw_stack: dict[str, bool | str]) -> None:
    if ONLY.get(name, FAMILY) != FAMILY:
        pytest.skip(f'broken in the family {ONLY[name]} only')
    if name in WITHOUT_A_GPU and torch.cuda.is_available():
        pytest.skip('broken on a machine without a GPU only')
    if name in BEFORE_TIMM and digit_version(INSTALLED['timm']) >= digit_version(BEFORE_TIMM[name]):
        pytest.skip(f'broken with timm before {BEFORE_TIMM[name]} only')
    if name in WITH_NEW_NUMPY and hasattr(np, 'in1d'):
        pytest.skip('broken with NumPy 2.4 and later only')
    assert raw_stack[name] is True, f'{name}: {raw_stack[name] or "no longer needed in this environment"}'


def test_in_mmpretrain_scope() -> None:
    """Without its scope mmpretrain's classifier is unknown in mmrazor's."""
    with DefaultScope.overwrite_default_scope('mmrazor'):
        assert MODELS.get('ImageClassifier') is None


def workarounds() -> set[str]:
    """Return the names of the functions of compat that work around something."""
    parts = [
        compat,
        *(importlib.import_module(f'{compat.__name__}.{m.name}') for m in pkgutil.iter_modules(compat.__path__)),
    ]
    return {
        name
        for part in parts
        for name, function in inspect.getmembers(part, inspect.isfunction)
        if function.__module__ == part.__name__ and 'Where: ' in (function.__doc__ or '')
    }


def test_every_workaround_has_its_problem() -> None:
    tried = {name.partition('__')[0] for name in BREAKS} | {'in_mmpretrain_scope'}
    assert workarounds() | ELSEWHERE | {'import_mmrazor'} == tried | {'require_torch'}
    assert {*ONLY, *WITHOUT_A_GPU, *BEFORE_TIMM, *WITH_NEW_NUMPY} <= BREAKS.keys()


def test_the_page_lists_every_workaround() -> None:
    rows = re.findall(r'^\| `(\w+)` \|', PAGE.read_text(), re.M)
    assert sorted(rows) == sorted(workarounds() | ELSEWHERE | {'import_mmrazor'})


REPLACED = """
import importlib.util, inspect, sys
spec = importlib.util.spec_from_file_location('raw_imports', sys.argv[1])
imports = importlib.util.module_from_spec(spec)
spec.loader.exec_module(imports)
imports.import_mmrazor()
import mmengine.hub
import mmpretrain.models
FOREIGN = ('mmengine', 'mmcv', 'mmpretrain', 'mmrazor', 'torch.serialization', 'torch.distributed', 'timm')
KINDS = (staticmethod, classmethod, property)

def snapshot():
    seen = {}
    for name, module in list(sys.modules.items()):
        if module is None or not name.startswith(FOREIGN):
            continue
        for key, value in list(vars(module).items()):
            if inspect.isclass(value) and value.__module__ == name:
                for attribute, member in list(vars(value).items()):
                    if inspect.isfunction(member) or isinstance(member, KINDS):
                        seen[f'{name}.{key}.{attribute}'] = member
            elif inspect.isroutine(value):
                seen[f'{name}.{key}'] = value
    return seen

before = snapshot()
modules = {*sys.modules}
import icd_mmrazor
for name, value in snapshot().items():
    if before.get(name) is not value and any(name.startswith(f'{module}.') for module in modules):
        print(name)
"""


@pytest.mark.slow
def test_the_page_lists_what_an_import_replaces(tmp_path: Path) -> None:
    script = tmp_path / 'replaced.py'
    script.write_text(REPLACED)
    process = run_python(script, ROOT / 'icd_mmrazor' / 'compat' / 'imports.py', PYTHONPATH=str(ROOT))
    assert process.returncode == 0, process.stderr
    text = PAGE.read_text().partition('## What an import replaces')[2]
    listed = re.findall(r'^- `([\w.]+)`(?: \((.+)\))?$', text, re.M)
    assert {*process.stdout.split()} == {name for name, only in listed if only in ('', FAMILY)}
