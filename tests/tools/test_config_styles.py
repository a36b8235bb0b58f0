"""A config by classes gives the same runs, files and exports as one by names."""

import json
from pathlib import Path

import pytest
import torch
from config_styles import write_both
from helpers import TOOLS, exit_status, whole_network
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor.configuration.changes import config_changes
from icd_mmrazor.configuration.stored import config_of

pytestmark = pytest.mark.stack


@pytest.fixture
def runs(images_file: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Write both configs; return their files."""
    torch.save(
        {'state_dict': MODELS.build({'_scope_': 'mmpretrain', **whole_network()}).state_dict()}, tmp_path / 'w.pth'
    )
    return write_both(tmp_path, images_file, tmp_path / 'w.pth')


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)['state_dict']


@pytest.mark.slow
def test_both_styles_give_the_same_files(runs: tuple[Path, Path], tmp_path: Path) -> None:
    folders = []
    for config in runs:
        folder = config.parent / 'work'
        assert exit_status(TOOLS / 'train.py', config, '--amp', 'bf16', '--work-dir', folder) is None
        folders.append(folder)
    named, classes = folders
    assert (classes / 'student.py').read_text() == (named / 'student.py').read_text()
    stored = [Config.fromfile(folder / 'run.py').to_dict() for folder in folders]
    assert config_changes(*stored) == config_changes(*stored[::-1]) == []
    assert stored[1]['optim_wrapper']['type'] == 'AutocastOptimWrapper'
    assert stored[1]['optim_wrapper']['optimizer']['fused'] is True
    first, second = weights(named / 'student_last.pth'), weights(classes / 'student_last.pth')
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    # a run that was begun in one style goes on in the other, to the same end
    resumed = tmp_path / 'resumed'
    options = ['--amp', 'bf16', '--work-dir', resumed, '--resume', named / 'epoch_1.pth']
    assert exit_status(TOOLS / 'train.py', runs[1], *options) is None
    third = weights(resumed / 'student_last.pth')
    assert all(torch.equal(first[name], third[name]) for name in first)

    # its checkpoint says all that the other tools need
    assert (
        exit_status(TOOLS / 'model_converters' / 'export_student.py', classes / 'epoch_2.pth', tmp_path / 's.pth')
        is None
    )
    assert (tmp_path / 's.py').read_text() == (named / 'student.py').read_text()
    metrics = []
    for config, checkpoint in ((runs[0], named / 'epoch_2.pth'), (runs[1], classes / 'epoch_2.pth')):
        out = tmp_path / 'metrics.json'
        assert exit_status(TOOLS / 'test.py', config, checkpoint, '--work-dir', tmp_path / 't', '--out', out) is None
        metrics.append(json.loads(out.read_text()))
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize('quoted', [True, False])
def test_what_mmengine_stores_of_classes_is_read(quoted: bool, runs: tuple[Path, Path]) -> None:
    """Runs without our tools keep the classes; mmengine writes their paths, with quotes or without."""
    cfg = Config.fromfile(runs[1])
    if not quoted:
        kept = {key: value for key, value in cfg.items() if isinstance(value, dict) or key == 'default_scope'}
        cfg = Config(Config(kept).to_dict())
        cfg.optim_wrapper.optimizer.type = torch.optim.SGD
        try:
            assert 'type=torch.optim.sgd.SGD' in cfg.pretty_text
        except SyntaxError:
            pytest.skip('mmengine 0.10.7 cannot store a config with classes in place of names')
    else:
        assert "type='torch.optim.SGD'" in cfg.pretty_text
    read = config_of({'meta': {'cfg': cfg.pretty_text}}, 'x.pth')
    assert read.optim_wrapper.optimizer.type == 'SGD'
    assert (read.model._scope_, read.model.type) == ('mmrazor', 'FrozenTeacherDistill')
    assert (read.model.architecture._scope_, read.model.architecture.type) == ('mmpretrain', 'ImageClassifier')
    assert read.model.architecture.backbone == whole_network()['backbone']
    assert read.custom_imports == dict(imports=['icd_mmrazor'])
