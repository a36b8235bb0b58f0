"""Teaching assistants: which ones, in which order, and by one command."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import TOOLS, exit_status
from mmengine.config import Config

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.workflow import assistants
from icd_mmrazor.workflow.assistants import options_for_assistants, train_assistants

PAIR, CHAIN = 'res110_res20_cifar100', ['res110-res56', 'res110-res56-res44', 'res110-res56-res44-res32']
FOLDER = Path('work_dirs/assistants')


class Trainings:
    """Trainings that only write what one leaves."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.options: list[list[str]] = []

    def __call__(self, config: Path, options: list[str]) -> list[str]:
        self.configs.append(Config.fromfile(config))
        self.options.append(options)
        return [sys.executable, '-c', f'open({str(config.parent / "student_last.pth")!r}, "w").write({config.stem!r})']


def test_each_learns_from_the_one_before_it() -> None:
    trainings = Trainings()
    train_assistants(PAIR, 'ceskd', ['--amp', 'bf16'], trainings)
    kd = recipes.compose(PAIR, ['kd'])
    models = [cfg.model for cfg in trainings.configs]
    assert [model.architecture.backbone.depth for model in models] == [56, 44, 32]
    assert [model.teacher.backbone.depth for model in models] == [110, 56, 44]
    files = [str(FOLDER / f'{name}_cifar100.pth') for name in CHAIN]
    assert [model.teacher_ckpt for model in models] == [kd.model.teacher_ckpt, *files[:2]]
    assert all(model.distiller == kd.model.distiller for model in models)
    # the settings of the student's training, but for its network
    for cfg in trainings.configs:
        assert {k: v for k, v in cfg.items() if k != 'model'} == {k: v for k, v in kd.items() if k != 'model'}
    # what the student of the method expects
    assert files[::-1] == [each.teacher_ckpt for each in recipes.compose(PAIR, ['ceskd']).model.teachers[:-1]]
    assert [Path(file).read_text() for file in files] == [f'{name}_cifar100' for name in CHAIN]
    for name, options in zip(CHAIN, trainings.options, strict=True):
        assert options == ['--work-dir', str(FOLDER / f'{name}_cifar100'), '--amp', 'bf16', '--resume']


def test_those_that_are_there_stay() -> None:
    first = FOLDER / f'{CHAIN[0]}_cifar100.pth'
    first.parent.mkdir(parents=True)
    first.touch()
    trainings = Trainings()
    train_assistants(PAIR, 'ceskd+dist', [], trainings)
    assert [cfg.model.architecture.backbone.depth for cfg in trainings.configs] == [44, 32]
    assert trainings.configs[0].model.teacher_ckpt == str(first)
    train_assistants(PAIR, 'ceskd', [], trainings)
    assert len(trainings.configs) == 2
    assert first.read_text() == ''


def test_one_of_other_settings_is_refused() -> None:
    """That of a trial, say. Seeds and what does not change a training may differ."""
    trainings = Trainings()
    short = ['--cfg-options', 'train_cfg.max_epochs=2', 'randomness.seed=1', 'model.ramp_epochs=2']
    train_assistants(PAIR, 'ceskd', short, trainings)
    assert len(trainings.configs) == 3
    same = ['--cfg-options', 'train_cfg.max_epochs=2', 'randomness.seed=5', 'train_dataloader.num_workers=0']
    train_assistants(PAIR, 'ceskd', same, trainings)
    assert len(trainings.configs) == 3
    file = re.escape(str(FOLDER / f'{CHAIN[0]}_cifar100'))
    with pytest.raises(
        SettingError, match=rf'{file}\.pth.* train_cfg\.max_epochs: 2 .* 240 now\. Remove it and {file} to'
    ):
        train_assistants(PAIR, 'ceskd', [], trainings)
    for name in CHAIN:
        (FOLDER / f'{name}_cifar100.pth').unlink()
    train_assistants(PAIR, 'ceskd', [], trainings)
    assert len(trainings.configs) == 6


@pytest.mark.parametrize(
    'setting',
    ['model.ramp_epoch=3', 'model.ramp_epochs=0', 'model.teachers.9.teacher_ckpt=a.pth', 'model.teacher_ckpt=a.pth'],
)
def test_wrong_settings_of_the_student_come_before_any_training(setting: str) -> None:
    trainings = Trainings()
    with pytest.raises(SettingError, match=setting.partition('=')[0].rpartition('.')[2]):
        train_assistants(PAIR, 'ceskd', ['--cfg-options', setting], trainings)
    assert not trainings.configs


def test_experts_of_ones_own() -> None:
    trainings = Trainings()
    own = ['model.teachers.3.teacher_ckpt=big.pth', 'model.teachers.1.teacher_ckpt=middle.pth']
    train_assistants(PAIR, 'ceskd', ['--cfg-options', *own], trainings)
    assert [cfg.model.architecture.backbone.depth for cfg in trainings.configs] == [56, 32]
    assert [cfg.model.teacher_ckpt for cfg in trainings.configs] == ['big.pth', 'middle.pth']


@pytest.mark.parametrize('methods', ['kd', 'dcd+kd', 'student'])
def test_other_methods_need_none(methods: str) -> None:
    train_assistants('wrn40-2_wrn16-2_cifar100', methods, [], Trainings())
    assert not FOLDER.exists()


def test_a_training_that_fails_ends_the_chain() -> None:
    trainings = Trainings()
    with pytest.raises(UserError, match=r'res110-res56_cifar100 ended with exit status 3\. Repeat'):
        train_assistants(PAIR, 'ceskd', [], lambda config, _: [sys.executable, '-c', 'exit(3)'])
    with pytest.raises(UserError, match=r'student_last\.pth is missing.*export_student'):
        train_assistants(PAIR, 'ceskd', [], lambda config, _: [sys.executable, '-c', ''])
    assert not list(FOLDER.glob('*.pth'))
    with pytest.raises(SettingError, match='ceskd does not fit'):
        train_assistants('wrn40-2_wrn16-2_cifar100', 'ceskd', [], trainings)


@pytest.mark.parametrize(
    ('given', 'want'),
    [
        ([], ['--resume']),
        (['--resume'], ['--resume']),
        (['--resume', 'epoch_3.pth', '--auto-scale-lr'], ['--auto-scale-lr', '--resume']),
        (['--cfg-options', 'model.ramp_epochs=3'], ['--resume']),
        (
            ['--cfg-options', 'model.ramp_epochs=3', 'train_cfg.max_epochs=2', '--resume-changes', 'list'],
            ['--resume-changes', 'list', '--resume', '--cfg-options', 'train_cfg.max_epochs=2'],
        ),
    ],
)
def test_options_of_the_student_that_are_not_for_assistants(given: list[str], want: list[str]) -> None:
    assert options_for_assistants(given) == want


@pytest.mark.slow
def test_one_command_trains_the_assistant_and_then_the_student(
    images_file: Path, teacher_file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, but everything else as in the command."""
    started = []

    def here(words: list[str], **_: bool) -> SimpleNamespace:
        started.append(words)
        return SimpleNamespace(returncode=exit_status(Path(words[1]), *words[2:]) or 0)

    monkeypatch.setattr(assistants, 'subprocess', SimpleNamespace(run=here))
    monkeypatch.setattr('os.execv', lambda _, words: sys.exit(here(words).returncode))
    teacher = Path(recipes.compose('res20_res8_digits', ['kd']).model.teacher_ckpt)
    teacher.parent.mkdir(parents=True)
    teacher.write_bytes(Path(teacher_file('res20')).read_bytes())
    data = [f'{split}_dataloader.dataset.data_file={images_file}' for split in ('train', 'val', 'test')]
    options = [*data, 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2', 'model.ramp_epochs=2']
    arguments = [TOOLS / 'benchmarks' / 'train.py', 'ceskd', 'res20_res8_digits', '--cfg-options', *options]
    assert not exit_status(*arguments)
    names = [Path(words[2]).stem for words in started]
    assert names == ['res20-res14_digits', 'ceskd_res20_res8_digits']
    run = Path('work_dirs/ceskd_res20_res8_digits')
    state = torch.load(run / 'epoch_2.pth', weights_only=True)['state_dict']
    assert torch.bincount(state['experts']).tolist() == [32, 32]
    log = '\n'.join(file.read_text() for file in run.glob('*/*.log'))
    assert 'weights work_dirs/assistants/res20-res14_digits.pth' in log
    assert 'CIFARResNet(depth=14)' in log
    # the assistant's weights are those that its training ended with
    assistant = torch.load('work_dirs/assistants/res20-res14_digits.pth', weights_only=True)['state_dict']
    trained = torch.load('work_dirs/assistants/res20-res14_digits/epoch_2.pth', weights_only=True)['state_dict']
    assert all(torch.equal(weight, trained[f'architecture.{name}']) for name, weight in assistant.items())
    # the second time, only the student is trained
    assert not exit_status(*arguments, 'default_hooks.distillation_report=None')
    assert [Path(words[2]).stem for words in started[2:]] == ['ceskd_res20_res8_digits']
