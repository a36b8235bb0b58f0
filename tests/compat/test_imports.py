"""Importing the stack, and that it tells the truth afterwards."""

import re
import subprocess
import venv
from pathlib import Path

import pytest
import torch
from helpers import ROOT, run_python
from mmengine.config import Config
from mmengine.utils import digit_version
from mmrazor.registry import MODELS

from icd_mmrazor.compat import imports


def test_mmrazor_is_there() -> None:
    import mmrazor.engine
    import mmrazor.models

    for name in ('ConfigurableDistiller', 'OFDDistiller', 'SingleTeacherDistill', 'KLDivergence', 'WideResNet'):
        assert MODELS.get(name) is not None, name
    assert mmrazor.engine.StopDistillHook is not None


def test_versions_are_true_after_the_import() -> None:
    import mmcv
    import mmcv.version
    import mmrazor
    from mmrazor.models.quantizers import native_quantizer

    assert mmcv.__version__ == mmcv.version.__version__
    assert mmrazor.digit_version is digit_version
    # mmrazor's own modules keep what they imported
    assert native_quantizer.digit_version(torch.__version__) == digit_version(torch.__version__)


@pytest.fixture(scope='module')
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter with nothing installed."""
    folder = tmp_path_factory.mktemp('bare')
    venv.create(folder, with_pip=False)
    return folder / 'bin' / 'python'


@pytest.mark.parametrize('command', [['-c', 'import icd_mmrazor'], [str(ROOT / 'tools' / 'train.py'), 'config.py']])
def test_missing_stack_is_one_message(command: list[str], bare_python: Path) -> None:
    process = subprocess.run([bare_python, *command], capture_output=True, text=True, env={'PYTHONPATH': str(ROOT)})
    assert process.returncode == 1
    message = process.stderr[process.stderr.index('ImportError') :]
    assert 'icd_mmrazor needs torch, torchvision, joblib, scipy, mmengine, mmcv, mmpretrain, mmrazor' in message
    assert 'pip install "icd-mmrazor[onedl]"' in message
    assert 'pip install "icd-mmrazor[openmmlab]"' in message


def test_missing_dependency_of_mmrazor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = imports.importlib.util.find_spec
    monkeypatch.setattr(imports.importlib.util, 'find_spec', lambda name: None if name == 'joblib' else find_spec(name))
    with pytest.raises(ImportError, match='needs joblib, not installed here'):
        imports.require_stack()


@pytest.mark.parametrize('version', ['2.9.1', '2.6.0+cpu', '1.13.1'])
def test_a_torch_whose_loader_can_be_made_to_run_code_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, '__version__', version)
    message = rf'needs torch >= 2\.10, and torch {re.escape(version)} is installed.*CVE-2026-24747.*pip install'
    with pytest.raises(ImportError, match=message):
        imports.require_stack()


@pytest.mark.parametrize('version', ['2.10.0', '2.10.0a0+gitabc', '2.14.1+cu130', '3.0.0'])
def test_later_ones_are_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, '__version__', version)
    imports.require_stack()


def test_configs_inherit_from_packages(tmp_path: Path) -> None:
    file = tmp_path / 'user.py'
    file.write_text("_base_ = ['mmpretrain::_base_/default_runtime.py']\n")
    assert Config.fromfile(file).default_scope == 'mmpretrain'


PLAIN = """
import sys
import icd_mmrazor
from icd_mmrazor import compat
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset

assert sys.getrecursionlimit() == 1000, sys.getrecursionlimit()
compat.prepare()

def raised(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error)

def errors():
    hook = dict(type='LoggerHook', no_such_setting=1)
    return raised(HOOKS.build, hook), raised(CustomDataset, data_root='absent', pipeline=[])

before, method = errors(), Runner._maybe_compile
assert before == (TypeError, FileNotFoundError), before
Config.fromfile(sys.argv[1])
changed = Runner._maybe_compile
compat.runtime()
# once
assert method is not changed is Runner._maybe_compile
after = errors()
assert after[0] is TypeError
assert after[1].__mro__[1].__name__ == 'DatasetError' and issubclass(after[1], FileNotFoundError), after
"""


@pytest.mark.slow
def test_a_run_is_changed_on_purpose_only(tmp_path: Path) -> None:
    """Here by a config that asks for it; the import itself prints nothing."""
    script, config = tmp_path / 'plain.py', tmp_path / 'config.py'
    script.write_text(PLAIN)
    config.write_text("custom_imports = dict(imports=['icd_mmrazor', 'icd_mmrazor.runtime'])\n")
    process = run_python(script, config, PYTHONPATH=str(ROOT))
    assert (process.returncode, process.stdout, process.stderr) == (0, '', '')
