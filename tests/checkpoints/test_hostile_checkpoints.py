"""Every tool and every setting that takes a checkpoint refuses the hostile and the damaged, and leaves nothing."""

import contextlib
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import hostile_files
import mmengine.runner.checkpoint as mmengine_checkpoint
import pytest
import torch
from helpers import CONFIGS, TOOLS, exit_status
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.writing import write_checkpoint
from icd_mmrazor.errors import CheckpointError

DEMO = CONFIGS / 'demo' / 'icd_res20_res8_digits.py'
PLAIN = CONFIGS / 'demo' / 'res8_digits.py'
EXPORT = TOOLS / 'model_converters' / 'export_student.py'
CONVERT = TOOLS / 'model_converters' / 'repdistiller_to_mmpretrain.py'
TRAIN, TEST = TOOLS / 'train.py', TOOLS / 'test.py'
FEATURES, CORRELATION = (TOOLS / 'analysis' / f'plot_{name}.py' for name in ('features', 'logit_correlation'))
# these two mmengine 0.10.7 reads with torch.load itself, which refuses, too
UNREAD = 'not a plain weights file|Weights only load failed'
CONTENTS = sorted(hostile_files.contents(Path('trace')))
# what torch takes for plain values: no code, and no more memory than the file has
HARMLESS = {
    *('empty and long', 'set again', 'sparse', 'complex', 'meta device'),
    *('numpy flags', 'laughs', 'nested', 'itself'),
}


@pytest.fixture
def bounded() -> Iterator[None]:
    """Let this process have 1 GB more than it has, and no byte more."""
    with hostile_files.bounded(2**30):
        yield


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('name', CONTENTS)
@pytest.mark.usefixtures('bounded')
def test_the_reader_runs_nothing(name: str, legacy: bool, tmp_path: Path) -> None:
    file = hostile_files.write(hostile_files.contents(tmp_path / 'trace')[name], tmp_path / 'file.pth', legacy)
    if name in HARMLESS:
        assert isinstance(read_checkpoint(file), dict)
    else:
        with pytest.raises(CheckpointError, match='not a plain weights file'):
            read_checkpoint(file)
    assert hostile_files.below(tmp_path) == {file}


@pytest.mark.usefixtures('bounded')
def test_the_reader_refuses_damaged_files(tmp_path: Path) -> None:
    whole = hostile_files.write({'state_dict': {'head.fc.weight': torch.randn(3, 5)}}, tmp_path / 'whole.pth')
    files = hostile_files.damaged(whole, tmp_path, tmp_path / 'trace')
    there = hostile_files.below(tmp_path)
    for name, file in files.items():
        with pytest.raises(CheckpointError, match='damaged' if file.is_file() else 'no such file|is a folder'):
            assert not read_checkpoint(file), name
    assert hostile_files.below(tmp_path) == there


@pytest.mark.usefixtures('bounded')
def test_small_files_take_little_memory_and_run_nothing(tmp_path: Path) -> None:
    files = {name: hostile_files.pickled(pickled, tmp_path / name) for name, pickled in hostile_files.bombs().items()}
    files |= hostile_files.with_two_contents(tmp_path)
    for name, file in files.items():
        with contextlib.suppress(CheckpointError):
            assert isinstance(read_checkpoint(file), dict), name
    assert hostile_files.below(tmp_path) == set(files.values())


def test_numpy_makes_no_objects_of_bytes(tmp_path: Path) -> None:
    """A dtype keeps what it is, whatever state a file gives it: an array of such objects would end the process."""
    file = hostile_files.write(hostile_files.contents(tmp_path)['numpy flags'], tmp_path / 'file.pth')
    kind = read_checkpoint(file)['meta']
    assert (kind.str, kind.hasobject) == ('<i8', False)


def test_what_others_allow_is_not_allowed_in_a_checkpoint(tmp_path: Path) -> None:
    file = hostile_files.write({'state_dict': {'a': Path('a')}}, tmp_path / 'file.pth')
    mine = [type(Path()), Path, getattr]
    with torch.serialization.safe_globals(mine):
        with pytest.raises(CheckpointError, match=r'pathlib\.\w+ was not an allowed global'):
            read_checkpoint(file)
        assert set(mine) <= set(torch.serialization.get_safe_globals())


@pytest.fixture
def whole(demo_config: Callable[..., Config], tmp_path: Path) -> Path:
    """Write a checkpoint of a distillation, with which all tools would work."""
    cfg = demo_config()
    model = MODELS.build({'_scope_': 'mmpretrain', **cfg.model.architecture})
    weights = {f'architecture.{name}': weight for name, weight in model.state_dict().items()}
    file = tmp_path / 'in' / 'whole.pth'
    write_checkpoint({'meta': {'cfg': cfg.pretty_text, 'epoch': 1, 'iter': 1}, 'state_dict': weights}, file)
    return file


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a tool that has to refuse its input; return its message."""

    def run(tool: Path, *arguments: object) -> str:
        (tmp_path / 'there').mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / 'there')
        before = hostile_files.below(tmp_path)
        status = exit_status(tool, *arguments)
        error = capsys.readouterr().err
        assert status == 1, error
        assert 'Traceback' not in error
        # a training has written its log and its config when it reads a checkpoint
        left = {file for file in hostile_files.below(tmp_path) - before if 'work' not in file.parts}
        assert not left
        assert not [file for file in hostile_files.below(tmp_path) - before if file.suffix in ('.pth', '.onnx', '.png')]
        assert not list(tmp_path.rglob('.*'))
        return error[error.rindex('error: ') :]

    return run


def test_the_whole_one_passes(whole: Path, tmp_path: Path) -> None:
    """Or the others would be refused for another reason."""
    assert exit_status(EXPORT, whole, tmp_path / 'student.pth') is None


@pytest.mark.slow
def test_every_file_is_refused_by_the_converters(whole: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    files = hostile_files.damaged(whole, whole.parent, tmp_path / 'trace')
    for name, content in hostile_files.contents(tmp_path / 'trace').items():
        files[name] = hostile_files.write(content, whole.parent / f'{name}.pth')
    assert sum(file.lstat().st_size for file in files.values()) < 10_000_000
    for name, file in files.items():
        for tool in (EXPORT, CONVERT):
            message = refused(tool, file, tmp_path / 'out' / 'student.pth')
            assert re.match(rf'error: (checkpoint )?{re.escape(str(file))}', message), name


def test_weights_that_no_network_has_are_refused(whole: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    checkpoint = read_checkpoint(whole)
    name, weight = next(iter(checkpoint['state_dict'].items()))
    for other in (weight.to_sparse(), weight.to(torch.complex64), weight.to('meta')):
        file = tmp_path / 'file.pth'
        write_checkpoint({**checkpoint, 'state_dict': {**checkpoint['state_dict'], name: other}}, file)
        assert 'holds no state dict' in refused(EXPORT, file, tmp_path / 'out' / 'student.pth')


@pytest.mark.slow
def test_every_tool_refuses(
    whole: Path, refused: Callable[..., str], images_file: Path, teacher_file: Callable, tmp_path: Path
) -> None:
    """One file is enough: the tests of the reader have all of them, and this shows that nothing goes around it."""
    content = hostile_files.contents(tmp_path / 'trace')['code in meta']
    file = hostile_files.write(content, tmp_path / 'in' / 'hostile.pth')
    data = [f'{split}_dataloader.dataset.data_file={images_file}' for split in ('train', 'val', 'test')]
    good = [f'model.teacher_ckpt={teacher_file("res20")}', *data]
    work = ['--work-dir', tmp_path / 'work']
    for tool, *arguments in (
        (TEST, DEMO, file, '--out', tmp_path / 'out.json', *work, '--cfg-options', *good),
        (TRAIN, DEMO, *work, '--cfg-options', *good, f'model.teacher_ckpt={file}'),
        (TRAIN, DEMO, '--resume', file, *work, '--cfg-options', *good),
        (TRAIN, PLAIN, *work, '--cfg-options', *data, f'load_from={file}'),
        (TRAIN, PLAIN, *work, '--cfg-options', *data, 'model.init_cfg.type=Pretrained',
         f'model.init_cfg.checkpoint={file}'),
        (FEATURES, DEMO, file, '--out', tmp_path / 'out.png', '--cfg-options', *good),
        (CORRELATION, DEMO, whole, '--out', tmp_path / 'out.png', '--teacher-ckpt', file, '--cfg-options', *good),
    ):  # fmt: skip
        assert str(file) in refused(tool, *arguments), (tool, arguments)
    for kind in ('TIMMBackbone', 'TimmClassifier'):
        # a CheckpointError, or timm's own from 1.0.26 on
        with pytest.raises(RuntimeError, match=r'weights file|weights_only'):
            MODELS.build(dict(type=f'mmpretrain.{kind}', model_name='resnet18', checkpoint_path=str(file)))
    assert not (tmp_path / 'trace').exists()
    with pytest.raises(CheckpointError, match='not a plain weights file'):
        MODELS.build(dict(type='mmpretrain.LinearProbe', num_classes=3, student_ckpt=str(file)))


@pytest.mark.slow
def test_the_pointer_of_a_stranger_runs_nothing(
    refused: Callable[..., str], images_file: Path, teacher_file: Callable, tmp_path: Path
) -> None:
    """``last_checkpoint`` may name any file, or be none itself."""
    work, trace = tmp_path / 'work', tmp_path / 'trace'
    work.mkdir()
    file = hostile_files.write(hostile_files.contents(trace)['code in meta'], work / 'epoch_1.pth')
    options = [f'{split}_dataloader.dataset.data_file={images_file}' for split in ('train', 'val', 'test')]
    options += [f'model.teacher_ckpt={teacher_file("res20")}']
    for pointer in (str(file), '/dev/zero'):
        (work / 'last_checkpoint').write_text(pointer)
        message = refused(TRAIN, DEMO, '--resume', '--work-dir', work, '--cfg-options', *options)
        assert 'epoch_1.pth' in message
    assert not trace.exists()


def test_names_in_a_file_do_not_reach_the_terminal(refused: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / 'file.pth'
    torch.save({'model': {'\x1b[2J' * 10_000: torch.zeros(1)}}, file)
    message = refused(CONVERT, file, tmp_path / 'out.pth')
    assert '\x1b' not in message
    assert len(message) < 2000


def test_every_scheme_of_mmengine_goes_through_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / 'file.pth'
    models = {'http': 'http://localhost/net.pth', 'https': 'https://localhost/net.pth', 'local': str(file)}
    for name in ('get_external_models', 'get_torchvision_models', 'get_mmcls_models'):
        monkeypatch.setattr(mmengine_checkpoint, name, lambda: models)
    monkeypatch.setattr(mmengine_checkpoint, 'get_deprecated_model_names', dict)
    monkeypatch.setattr(
        mmengine_checkpoint, 'get_file_backend', lambda *_, **__: mock.Mock(get=lambda _: file.read_bytes())
    )

    hostile_files.write(hostile_files.contents(tmp_path / 'trace')['code'], file)
    for address, message in (
        (str(file), 'not a plain weights file'),
        ('s3://bucket/net.pth', UNREAD),
        ('open-mmlab://local', UNREAD),
        ('open-mmlab://http', 'only https://'),
        ('torchvision://http', 'only https://'),
        ('mmcls://http', 'only https://'),
        ('torchvision://https', 'cannot be verified'),
        ('http://localhost/net.pth', 'only https://'),
    ):
        with pytest.raises((CheckpointError, pickle.UnpicklingError), match=message):
            mmengine_checkpoint._load_checkpoint(address)
    assert hostile_files.below(tmp_path) == {file}
    hostile_files.write({'state_dict': {'a': torch.ones(1)}}, file)
    assert mmengine_checkpoint._load_checkpoint('s3://bucket/net.pth')['state_dict'] == {'a': torch.ones(1)}
