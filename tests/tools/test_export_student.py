"""export_student.py as a user calls it."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, DATA, TOOLS, exit_status
from mmengine.config import Config
from mmrazor.registry import MODELS

pytestmark = pytest.mark.stack
TOOL = TOOLS / 'model_converters' / 'export_student.py'


@pytest.fixture
def checkpoint(images_file: Path, tmp_path: Path) -> tuple[Path, dict]:
    """Write a distillation's checkpoint and return it."""
    cfg = Config.fromfile(CONFIGS / 'demo' / 'icd_res20_res8_digits.py')
    cfg.test_dataloader.dataset.data_file = str(images_file)
    weights = MODELS.build(cfg.model.architecture).state_dict()
    meta = dict(cfg=cfg.pretty_text, epoch=1, dataset_meta=dict(classes=list('abcdefghij')))
    weights = {f'architecture.{name}': weight for name, weight in weights.items()}
    content = dict(meta=meta, state_dict={**weights, 'distiller.bias': torch.zeros(1)}, optimizer=dict(state={}))
    torch.save(content, tmp_path / 'epoch_1.pth')
    return tmp_path / 'epoch_1.pth', content


@pytest.mark.slow
def test_the_student_goes_into_two_files_and_is_tested(
    checkpoint: tuple[Path, dict], images_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, _ = checkpoint
    out = tmp_path / 'new' / 'student.pth'
    assert exit_status(TOOL, source, out) is None
    printed = capsys.readouterr().out
    size = out.stat().st_size / 1e6
    assert f'{out}: {size:.2f} MB, CIFARResNet, 78,042 parameters, epoch 1, needs icd_mmrazor in addition' in printed
    assert f"ImageClassificationInferencer('{out.with_suffix('.py')}', pretrained='{out}')" in printed
    # once more, from itself, is the same
    assert exit_status(TOOL, out, tmp_path / 'again.pth') is None
    assert (tmp_path / 'again.py').read_text() == out.with_suffix('.py').read_text()
    first, second = (torch.load(file, weights_only=True) for file in (out, tmp_path / 'again.pth'))
    assert first.keys() == second.keys() == {'meta', 'state_dict'}
    assert first['meta'] == second['meta']

    # three ways to test it: by its own config, by the vanilla one, and the distillation's, which needs no teacher
    data = (
        f'test_dataloader.dataset.data_file={Config.fromfile(out.with_suffix(".py")).test_dataloader.dataset.data_file}'
    )
    metrics = []
    for config, file, *more in (
        (out.with_suffix('.py'), out),
        (CONFIGS / 'demo' / 'res8_digits.py', out),
        (CONFIGS / 'demo' / 'icd_res20_res8_digits.py', source, 'model.teacher=nowhere.py'),
    ):
        options = ['--work-dir', tmp_path / 'work', '--out', tmp_path / 'metrics.json', '--cfg-options', data, *more]
        assert exit_status(TOOLS / 'test.py', config, file, *options) is None
        metrics.append(json.loads((tmp_path / 'metrics.json').read_text()))
    assert metrics[0] == metrics[1] == metrics[2]


@pytest.mark.slow
def test_onnx(checkpoint: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for package in ('onnx', 'onnxruntime', 'onnxscript'):
        pytest.importorskip(package)
    import onnx
    from onnxruntime import InferenceSession

    source, _ = checkpoint
    assert exit_status(TOOL, source, tmp_path / 'student.pth', '--onnx') is None
    assert ' MB, images: B x 3 x 16 x 16, differs from torch by' in capsys.readouterr().out
    file = tmp_path / 'student.onnx'
    model = MODELS.build(Config.fromfile(tmp_path / 'student.py').model).eval()
    model.load_state_dict(torch.load(tmp_path / 'student.pth', weights_only=True)['state_dict'])
    session = InferenceSession(file, providers=['CPUExecutionProvider'])
    for size in (1, 5):
        images = torch.randn(size, 3, 16, 16)
        with torch.no_grad():
            expected = model(images, mode='tensor')
        logits = torch.from_numpy(session.run(['logits'], {'images': images.numpy()})[0])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    about = {entry.key: json.loads(entry.value) for entry in onnx.load(file).metadata_props}
    assert about == {'mean': [78.0] * 3, 'std': [81.0] * 3, 'channel_order': 'RGB', 'classes': list('abcdefghij')}


def test_without_onnx_it_says_what_to_install(
    checkpoint: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'onnxscript' else known(name))
    assert exit_status(TOOL, checkpoint[0], tmp_path / 'student.pth', '--onnx') == 1
    assert "Install: pip install 'icd-mmrazor[onnx]'" in capsys.readouterr().err


def teacher_alone(content: dict) -> dict:
    prefix = 'architecture.'
    weights = {f'teacher.{k[len(prefix) :]}': v for k, v in content['state_dict'].items() if k.startswith(prefix)}
    return {**content, 'state_dict': weights}


def foreign(content: dict) -> dict:
    return {**content, 'state_dict': {**content['state_dict'], 'architecture.neck.weight': torch.zeros(1)}}


# which tells the size of the images, too
NO_TRAINING_SET = ['--to', 'onnx-int8', '--input-size', '16', '16', '--cfg-options', 'train_dataloader=None']


def with_config(text: str) -> Callable[[dict], dict]:
    return lambda content: {**content, 'meta': {**content['meta'], 'cfg': text}}


@pytest.mark.parametrize(
    ('change', 'arguments', 'message'),
    [
        (lambda content: {'meta': content['meta']}, [], 'meta'),
        (lambda content: {'state_dict': content['state_dict']}, [], r"meta\['cfg'\]"),
        (foreign, [], r'only in the file: neck\.weight'),
        (teacher_alone, [], r'not in the file: backbone\.conv1\.weight.*only in the file: teacher\.backbone'),
        (with_config('import os'), [], 'the config in .*line 1.*import os'),
        (with_config("model = dict(type='NoSuchNetwork')"), [], r'NoSuchNetwork(?s:.*)--config CONFIG'),
        (None, ['--config', 'none.py'], r'--config none\.py'),
        (None, ['--config', CONFIGS / 'demo/res20_digits.py'], r'not in the file: backbone\.layer1\.1'),
        (None, ['--input-size', '8', '8'], '--input-size'),
        (None, ['--onnx', '--input-size', '0', '8'], "argument --input-size: '0'"),
        (None, ['--onnx', '{out}'], '--to onnx: .* of another format'),
        (None, ['--onnx', CONFIGS], '--to onnx: .* is a folder'),
        (None, ['--onnx', DATA / 'resnet8_io.npz'], '--to onnx: .* exists'),
        (None, ['--to', 'onnx', 'torchscrip'], 'torchscrip.* Did you mean torchscript'),
        (None, ['--to', 'timm'], '--to timm: .*CIFARResNet'),
        (None, ['--to', 'onnx', '--calibration', CONFIGS], '--calibration'),
        (None, ['--to', 'onnx-int8', '--calibration', 'absent'], '--calibration absent: there is no such folder'),
        (None, ['--to', 'onnx-int8', '--calibration', CONFIGS], '--calibration .*configs has no images'),
        (None, [*NO_TRAINING_SET], '--calibration.* no training images'),
        (None, ['--measure', '--cfg-options', 'test_dataloader.dataset.data_file=no.npz'], r'no\.npz'),
        (None, ['--cfg-options', 'tset_dataloader=None'], 'tset_dataloader.*Did you mean test_dataloader'),
    ],
    ids=[
        *('weights', 'config', 'foreign', 'teacher', 'code', 'type', 'no file', 'other network', 'size', 'zero'),
        *('onnx', 'onnx folder', 'onnx exists', 'format', 'other format', 'not int8', 'no folder', 'no images'),
        *('no training set', 'no test images', 'option'),
    ],
)  # fmt: skip
def test_bad_input_leaves_nothing(
    change: Callable | None,
    arguments: list,
    message: str,
    checkpoint: tuple[Path, dict],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    source, content = checkpoint
    if change:
        torch.save(change(content), source)
    out = tmp_path / 'new' / 'student.pth'
    status = exit_status(TOOL, source, out, *(str(argument).format(out=out) for argument in arguments))
    assert status == (2 if message.startswith('argument') else 1)
    error = capsys.readouterr().err
    assert re.search(message, error, re.DOTALL), error
    assert not (tmp_path / 'new').exists()


def test_files_are_kept(checkpoint: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = checkpoint[0], tmp_path / 'student.pth'
    out.with_suffix('.py').write_text('mine')
    for name, options, message in (
        ('student.pth', [], 'student.py exists'),
        ('epoch_1.pth', ['--force'], 'epoch_1.pth is'),
        ('', [], 'OUT'),
        ('student.onnx', [], 'OUT'),
    ):
        assert exit_status(TOOL, source, tmp_path / name, *options) == 1
        assert message in capsys.readouterr().err
    assert out.with_suffix('.py').read_text() == 'mine'
    assert exit_status(TOOL, source, out, '--force') is None
    assert out.with_suffix('.py').read_text() != 'mine'
