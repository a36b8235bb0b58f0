"""What ``compat`` mends is broken in the installed stack; an entry whose test fails here can be deleted.

The breaks are tried in one process of the raw stack (``raw_stack.py``), but for those that are seen here as well.
"""

import importlib.metadata
import inspect
import json
import os
from unittest import mock

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
# broken in one of the two families only
ONLY = {
    'silenced_onedl_notice': 'onedl',
    'mend_package_lookup': 'openmmlab',
    'load_checkpoints_as_plain_weights__fallback': 'onedl',
    'load_checkpoints_as_plain_weights__own': 'openmmlab',
}
WITHOUT_A_GPU = ('channels_last_is_sound', 'process_group')
# of 1.0.20 and 1.0.26 the first unpickles what a config names; for who has an older one than the tests
BEFORE_TIMM = {'refuse_pickles_of_timm': '1.0.26'}
# they mend nothing: the start, the checks that there is a stack, and a question
NO_MENDS = {'prepare_stack', 'require_stack', 'require_torch', 'accelerator_available'}


@pytest.fixture(scope='module')
def raw_stack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool | str]:
    """Return for each break whether it is there, or why it could not be tried."""
    folder = tmp_path_factory.mktemp('raw_stack')
    with mock.patch.dict(os.environ):
        # of this process, in which limit_images has set it
        os.environ.pop('OPENCV_IO_MAX_IMAGE_PIXELS', None)
        # the kernel that writes beyond its memory is that of CPUs with AVX2, which newer ones have too
        settings = dict(OMP_NUM_THREADS='1', ONEDNN_MAX_CPU_ISA='AVX2')
        process = run_python(ROOT / 'tests' / 'support' / 'raw_stack.py', folder, cwd=folder, **settings)
    assert process.returncode == 0, process.stderr
    return json.loads((folder / 'breaks.json').read_text())


@pytest.mark.parametrize('name', BREAKS)
def test_is_broken_without_this_package(name: str, raw_stack: dict[str, bool | str]) -> None:
    if ONLY.get(name, FAMILY) != FAMILY:
        pytest.skip(f'broken in the family {ONLY[name]} only')
    if name in WITHOUT_A_GPU and torch.cuda.is_available():
        pytest.skip('broken on a machine without a GPU only')
    if name in BEFORE_TIMM and digit_version(INSTALLED['timm']) >= digit_version(BEFORE_TIMM[name]):
        pytest.skip(f'broken with timm before {BEFORE_TIMM[name]} only')
    mend = name.partition('__')[0]
    assert raw_stack[name] is True, f'compat.{mend}: {raw_stack[name] or "no longer needed in this environment"}'


def test_in_mmpretrain_scope() -> None:
    """Without its scope mmpretrain's classifier is unknown in mmrazor's."""
    with DefaultScope.overwrite_default_scope('mmrazor'):
        assert MODELS.get('ImageClassifier') is None


def test_every_mend_has_its_break() -> None:
    functions = {
        name
        for name, function in inspect.getmembers(compat, inspect.isfunction)
        if function.__module__ == compat.__name__ and not name.startswith('_')
    }
    tried = {name.partition('__')[0] for name in BREAKS} | {'in_mmpretrain_scope'}
    assert functions - NO_MENDS == tried - {'allowed_in_checkpoints'}
    assert {*ONLY, *WITHOUT_A_GPU, *BEFORE_TIMM} <= BREAKS.keys()
