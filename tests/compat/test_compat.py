"""What the compatibility layer mends, and that it tells the truth afterwards."""

import importlib
import re
import socket
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, run_python
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from mmengine.model import Sequential
from mmengine.runner import CheckpointLoader
from mmengine.structures import BaseDataElement
from mmengine.utils import digit_version
from mmpretrain.registry import DATASETS
from mmrazor.models.architectures.dynamic_ops import DynamicSequential
from mmrazor.registry import MODELS
from torch import nn

import icd_mmrazor
from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError


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


def test_import_is_quiet() -> None:
    process = run_python('-c', 'import icd_mmrazor')
    assert (process.returncode, process.stdout, process.stderr) == (0, '', '')


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
    find_spec = icd_mmrazor.compat.importlib.util.find_spec
    monkeypatch.setattr(
        icd_mmrazor.compat.importlib.util, 'find_spec', lambda name: None if name == 'joblib' else find_spec(name)
    )
    with pytest.raises(ImportError, match='needs joblib, not installed here'):
        icd_mmrazor.compat.require_stack()


@pytest.mark.parametrize('version', ['2.9.1', '2.6.0+cpu', '1.13.1'])
def test_a_torch_whose_loader_can_be_made_to_run_code_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, '__version__', version)
    message = rf'needs torch >= 2\.10, and torch {re.escape(version)} is installed.*CVE-2026-24747.*pip install'
    with pytest.raises(ImportError, match=message):
        icd_mmrazor.compat.require_stack()


@pytest.mark.parametrize('version', ['2.10.0', '2.10.0a0+gitabc', '2.14.1+cu130', '3.0.0'])
def test_later_ones_are_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, '__version__', version)
    icd_mmrazor.compat.require_stack()


def test_configs_inherit_from_packages(tmp_path: Path) -> None:
    file = tmp_path / 'user.py'
    file.write_text("_base_ = ['mmpretrain::_base_/default_runtime.py']\n")
    assert Config.fromfile(file).default_scope == 'mmpretrain'


def test_a_config_is_formatted_once_and_anew_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config(dict(model=dict(type='ICDLoss', alpha=0.5)))
    text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    with monkeypatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', None)
        assert cfg.pretty_text == Config(cfg.to_dict()).pretty_text == text
    cfg.model.alpha = 0.25
    assert cfg.pretty_text == text.replace('0.5', '0.25')


def test_mmengine_loads_no_pickle(tmp_path: Path) -> None:
    trace, file = tmp_path / 'trace', tmp_path / 'hostile.pth'

    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (trace,)

    torch.save({'state_dict': Hostile()}, file)
    for source in (str(file), 'http://localhost/file.pth'):
        with pytest.raises(CheckpointError):
            CheckpointLoader.load_checkpoint(source)
    assert not trace.exists()


@pytest.mark.parametrize(
    ('files', 'settings', 'message'),
    [
        ([], {}, 'Found: there is no such folder. Expected: a folder for each class with its images: .*/CLASS/IMAGE'),
        (['1.png', '2.png'], {}, 'Found: it holds 1.png, 2.png. Expected: a folder for each class'),
        (['cat/readme.txt'], {}, 'Found: it holds cat/. Expected: a folder for each class'),
        (['cat/1.png'], {'ann_file': 'labels.txt'}, 'labels.txt.*Expected: lines "IMAGE LABEL" in .*labels.txt'),
        (['cat/1.png'], {'classes': ['cat', 'dog']}, "doesn't match the number of specified classes"),
    ],
    ids=['absent', 'flat', 'no images', 'no annotations', 'classes'],
)
def test_a_folder_of_images_of_another_layout_is_explained(
    files: list[str], settings: dict, message: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'images' / name).touch()
    with pytest.raises(DatasetError, match=message):
        DATASETS.build(dict(type='CustomDataset', data_root=str(tmp_path / 'images'), pipeline=[], **settings))


@pytest.mark.parametrize(
    ('names', 'kept'),
    [(['a', 'best_a_epoch_1.pth'], 'best_a_epoch_1.pth'), (['thesis'], None), (['best_a', '..'], None)],
)
def test_a_resumed_run_deletes_nothing_of_others(names: list[str], kept: str | None, tmp_path: Path) -> None:
    """The path of the best checkpoint, which mmengine deletes when there is a better one, is read from a file."""
    hub = MessageHub(tmp_path.name)
    elsewhere = str(tmp_path.joinpath('elsewhere', *names))
    hub.update_info_dict({'best_ckpt': elsewhere, 'best_ckpt_a': elsewhere, 'best_ckpt_b': elsewhere})
    run = SimpleNamespace(work_dir=str(tmp_path), message_hub=hub, logger=MMLogger.get_current_instance())
    kept = kept and str(tmp_path / kept)
    if kept:
        assert CheckpointHook(save_best='a', rule='greater').best_ckpt_path is None
        Path(kept).touch()
    one, two = (CheckpointHook(save_best=best, rule='greater') for best in ('a', ['a', 'b']))
    one.before_train(run)
    two.before_train(run)
    assert (one.best_ckpt_path, two.best_ckpt_path_dict) == (kept, {'a': kept, 'b': kept})


def test_convolutions_that_torch_computes_wrongly_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for convolution, sound in (
        (nn.Conv2d(4, 8, 1, stride=2), False),
        (nn.Conv2d(8, 8, 1, stride=2), False),
        (nn.Conv2d(15, 8, 1, stride=(1, 2)), False),
        (nn.Conv2d(16, 8, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(4, 8, 3, stride=2), True),
    ):
        monkeypatch.setattr(icd_mmrazor.compat, 'accelerator_available', lambda: False)
        assert icd_mmrazor.compat.channels_last_is_sound(nn.ReLU(), nn.Sequential(convolution)) is sound
        monkeypatch.setattr(icd_mmrazor.compat, 'accelerator_available', lambda: True)
        assert icd_mmrazor.compat.channels_last_is_sound(convolution)


def test_narrow_strided_convolutions_are_trained_rightly_on_this_cpu() -> None:
    """In a process that would die of it, in the layout that is taken for them; threads as they come."""
    threads = {'OMP_NUM_THREADS': '2'}
    process = run_python(ROOT / 'tests' / 'support' / 'narrow_convolutions.py', PYTHONPATH=str(ROOT), **threads)
    assert process.returncode == 0, f'{process.returncode} {process.stdout} {process.stderr}'
    assert process.stdout.split() == ['4', '8', '12', '15', '16', '24']


@pytest.mark.skipif(torch.cuda.is_available(), reason='a graph for a GPU is laid out soundly')
def test_a_compiled_graph_keeps_the_layout(
    monkeypatch: pytest.MonkeyPatch, demo_config: Callable, runner: Callable
) -> None:
    """Inductor lays convolutions channels last on a CPU."""
    config = importlib.import_module('torch._inductor.config')
    monkeypatch.setattr(torch, 'compile', lambda function, **_: function)
    for stride, changed in ((2, True), (1, False)):
        config.layout_optimization = True
        try:
            icd_mmrazor.compat.keep_layout_when_compiled(nn.Conv2d(8, 8, 1, stride=stride))
            assert config.layout_optimization is not changed
        finally:
            config.layout_optimization = True
    monkeypatch.setattr(icd_mmrazor.compat, 'channels_last_is_sound', lambda _: False)
    run = runner(demo_config(compile=True))
    try:
        run._maybe_compile('train_step')
        assert config.layout_optimization is False
    finally:
        config.layout_optimization = True


def test_mmrazors_loss_of_mmclss_function() -> None:
    student, teacher = torch.randn(4, 10), torch.randn(4, 10)
    loss = MODELS.build(dict(type='mmrazor.KDSoftCELoss', tau=2.0, loss_weight=0.5))
    want = 0.5 * 4 * -((teacher / 2).softmax(1) * (student / 2).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(student, teacher), want)


def test_sequences_are_made_dynamic() -> None:
    shared = nn.Linear(2, 2)
    sequence = Sequential(shared, nn.ReLU(), shared)
    dynamic = DynamicSequential.convert_from(sequence)
    assert [*dynamic.pure_modules()] == [shared, sequence[1], shared]


def test_a_plain_load_reads_checkpoints_of_mmengine(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save({'message_hub': {'log_scalars': {'loss': history}, 'best': np.float64(0.5)}}, tmp_path / 'epoch_1.pth')
    # what our own reading allows for a time is not forgotten with it
    read_checkpoint(tmp_path / 'epoch_1.pth')
    hub = torch.load(tmp_path / 'epoch_1.pth')['message_hub']
    assert hub['log_scalars']['loss'].data[0].tolist() == [1, 2]
    assert hub['best'] == 0.5


def test_a_model_may_predict_a_dictionary() -> None:
    loops = importlib.import_module('mmengine.runner.loops')
    assert loops._update_losses({'acc': 1}, {}) == ({'acc': 1}, {})
    loss = BaseDataElement(loss={'loss': torch.tensor(2.0)})
    outputs, losses = loops._update_losses([1, loss], {})
    assert outputs == [1]
    assert losses['loss'].mean() == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU machine the launchers are mmengine's own")
@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_launchers_that_need_a_gpu_say_so(launcher: str) -> None:
    with (
        pytest.raises(SettingError, match=f"launcher='{launcher}' needs a GPU.*torchrun"),
        icd_mmrazor.compat.process_group(Config({'launcher': launcher})),
    ):
        pass


def test_a_single_process_starts_no_group() -> None:
    cfg = Config({'launcher': 'none'})
    with icd_mmrazor.compat.process_group(cfg):
        assert not torch.distributed.is_initialized()
    assert 'model_wrapper_cfg' not in cfg


GROUP = """
import os
from icd_mmrazor import compat
import torch
from mmengine.config import Config

def threads():
    return len(os.listdir('/proc/self/task'))

def train(cfg):
    device_ids = cfg.model_wrapper_cfg.device_ids
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2), device_ids=device_ids)
    model.itself = [model]  # a cycle, as a runner's
    model(torch.ones(1, 2)).sum().backward()
    assert torch.distributed.get_backend() == 'gloo'

torch.ones(2).requires_grad_().sum().backward()
before, cfg = threads(), Config({'launcher': 'pytorch'})
with compat.process_group(cfg):
    train(cfg)
    during = threads()
print(before, during, threads(), torch.distributed.is_initialized())
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU machine the launchers are mmengine's own")
def test_no_thread_of_a_process_group_is_left(tmp_path: Path) -> None:
    """One that meets the end of the interpreter aborts the process."""
    script = tmp_path / 'script.py'
    script.write_text(GROUP)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    world = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    process = run_python(script, **world, OMP_NUM_THREADS='1')
    # gloo of torch 2.10 prints a line of its own
    before, during, after, initialized = process.stdout.splitlines()[-1].split()
    assert int(during) > int(before), process.stderr
    assert (after, initialized) == (before, 'False')
