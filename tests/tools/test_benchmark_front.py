"""tools/benchmarks/train.py: one command for a cell."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import TOOLS, exit_status
from mmengine.config import Config

from icd_mmrazor import recipes

FRONT = TOOLS / 'benchmarks' / 'train.py'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_list_shows_both_axes_and_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for file in ('data/cifar100/train', 'work_dirs/wrn40-2_cifar100/epoch_240.pth'):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert exit_status(FRONT, '--list') is None
    printed = capsys.readouterr().out
    for name in [*recipes.method_names(), *recipes.pair_names()]:
        assert f'  {name} ' in printed
    lines = {line.split()[0]: ' '.join(line.split()[1:]) for line in printed.splitlines()}
    teacher = 'teacher work_dirs/wrn40-2_cifar100/epoch_240.pth'
    assert lines['wrn40-2_wrn16-2_cifar100'] == f'data data/cifar100 {teacher}'
    assert lines['wrn40-2_wrn40-1_cifar100'] == f'data data/cifar100 {teacher}'
    assert lines['res20_res8_digits'] == (
        'data work_dirs/demo/digits.npz (missing) teacher work_dirs/demo/teacher/epoch_20.pth (missing)'
    )


def test_several_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr('os._exit', sys.exit)  # one of several ends at once
    assert exit_status(FRONT, 'icd', 'res20_res8_digits') == 1
    error = capsys.readouterr().err
    assert 'WORLD_SIZE=2' in error
    assert '--processes GPUS' in error
    assert '--dump FILE' in error
    assert 'tools/dist_train.sh FILE GPUS' in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mixed_cell_is_trained(
    images_file: Path, teacher_file: Callable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr('os.execv', lambda _, words: sys.exit(exit_status(Path(words[1]), *words[2:])))
    data = [f'{split}_dataloader.dataset.data_file={images_file}' for split in ('train', 'val', 'test')]
    options = [
        *data,
        f'model.teacher_ckpt={teacher_file("res20")}',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
    ]
    arguments = ['icd+kd+at', 'res20_res8_digits', '--work-dir', 'cell', '--cfg-options', *options]
    assert exit_status(FRONT, *arguments) is None
    printed = ''.join(capfd.readouterr())
    for term in ('icd.loss_icd', 'kd.loss_kd', 'at.loss_at3'):
        assert f'distill.{term}' in printed
    assert Path('cell/epoch_1.pth').is_file()
    assert not list(Path('cell').glob('.*'))


def test_dcd_is_icd(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr('os.execv', lambda file, words: started.append(words[1:]))
    for methods in ('icd+kd', 'dcd+kd'):
        assert exit_status(FRONT, methods, 'res20_res8_digits') is None
    first, second = started
    assert first == second
    assert Path('work_dirs/icd+kd_res20_res8_digits/icd+kd_res20_res8_digits.py').is_file()
    assert [folder.name for folder in Path('work_dirs').iterdir()] == ['icd+kd_res20_res8_digits']


@pytest.mark.slow
def test_a_cell_in_several_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    started = []
    monkeypatch.setattr('os.execv', lambda file, words: started.append((file, words)))
    arguments = ['icd', 'res20_res8_digits', '--resume', '--processes']
    assert exit_status(FRONT, *arguments, '3') is None
    launch, config = str(TOOLS / 'dist_train.sh'), 'work_dirs/icd_res20_res8_digits/icd_res20_res8_digits.py'
    folder = ['--work-dir', 'work_dirs/icd_res20_res8_digits']
    assert started == [(launch, [launch, config, '3', *folder, '--resume'])]
    assert os.environ.pop('PYTHON') == sys.executable
    assert exit_status(FRONT, *arguments, '0') == 2
    assert "--processes: '0' is not a positive integer" in capsys.readouterr().err


def test_dump_writes_the_config_and_keeps_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / 'new' / 'ab.py'
    assert exit_status(FRONT, 'ab', 'vgg13_vgg8_cifar100', '--dump', file) is None
    assert exit_status(FRONT, 'kd', 'vgg13_vgg8_cifar100', '--dump', file) == 1
    assert Config.fromfile(file).to_dict() == recipes.compose('vgg13_vgg8_cifar100', ['ab']).to_dict()
    assert f'--dump {file} exists' in capsys.readouterr().err
    assert exit_status(FRONT, 'kd', 'vgg13_vgg8_cifar100', '--dump', file / 'inside.py') == 1
    assert f'--dump {file}/inside.py: {file} is not a folder' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['icdd', 'res56_res20_cifar100'], "There is no method 'icdd'. Did you mean icd"),
        (['fsp', 'res50_vgg8_cifar100'], 'fsp does not fit res50_vgg8_cifar100'),
        (['icd'], 'METHODS and PAIR'),
    ],
)
def test_bad_input(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert exit_status(FRONT, *arguments) in (1, 2)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
