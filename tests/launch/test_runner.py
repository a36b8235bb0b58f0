"""The console of a run: an error before its work stands alone."""

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, TOOLS, exit_status
from mmengine.logging import MMLogger

from icd_mmrazor.launch.runner import _HeldBack

DEMO, VANILLA = CONFIGS / 'demo', CONFIGS / 'vanilla'
FOLDER = (
    "_base_ = ['{base}']\n"
    "dataset = dict(_delete_=True, type='{kind}', data_root='nowhere', pipeline=[dict(type='LoadImageFromFile'), "
    "dict(type='PackInputs')])\n"
    'train_dataloader = dict(dataset=dataset)\nval_dataloader = dict(dataset=dataset)\n'
    'test_dataloader = dict(dataset=dataset)\n'
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images_file: Path) -> Path:
    """Go to an empty folder with the demo's data."""
    (tmp_path / 'work_dirs' / 'demo').mkdir(parents=True)
    shutil.copy(images_file, tmp_path / 'work_dirs' / 'demo' / 'digits.npz')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capfd: pytest.CaptureFixture, *arguments: object, tool: str = 'train') -> list[str]:
    """Run a tool that has to fail; return the lines that it prints."""
    capfd.readouterr()
    assert exit_status(TOOLS / f'{tool}.py', *arguments) == 1
    for reference in logging._handlerList:  # as Python does when it ends
        with contextlib.suppress(ValueError, AttributeError):
            reference().flush()
    lines = ''.join(capfd.readouterr()).strip().splitlines()
    # what mmengine prints without a logger, and Python's warnings of tests that run within a second
    return [line for line in lines if line and not line.startswith('Loads checkpoint') and 'warn' not in line.lower()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arguments', 'named'),
    [
        ([VANILLA / 'res8_cifar100.py', '--cfg-options', 'train_dataloader.dataset.download=False'], 'cifar-100'),
        ([DEMO / 'res8_digits.py', '--cfg-options', 'train_dataloader.dataset.data_file=none.npz'], 'none.npz'),
        ([DEMO / 'res8_digits.py', '--cfg-options', 'val_dataloader.dataset.data_file=none.npz'], 'none.npz'),
        (['CustomDataset'], 'nowhere'),
        (['ImageNet'], 'nowhere'),
        (['STL10'], 'nowhere'),
        (['TinyImageNet'], 'nowhere'),
        ([DEMO / 'icd_res20_res8_digits.py'], 'work_dirs/demo/teacher'),
        ([DEMO / 'res8_digits.py', '--cfg-options', 'load_from=none.pth'], 'none.pth'),
        ([DEMO / 'res8_digits.py', '--resume', 'none.pth'], 'none.pth'),
        ([DEMO / 'res8_digits.py', '--resume', 'no_checkpoint.pth'], 'no_checkpoint.pth'),
        ([DEMO / 'res8_digits.py', '--cfg-options', 'model.head.num_clases=3'], 'num_clases'),
        ([DEMO / 'res8_digits.py', '--cfg-options', 'train_cfg.max_epoch=3'], 'max_epoch'),
    ],
    ids=lambda value: ' '.join(str(getattr(each, 'stem', each)) for each in value) if isinstance(value, list) else '',
)
def test_an_error_stands_alone(arguments: list, named: str, place: Path, capfd: pytest.CaptureFixture) -> None:
    torch.save({'state_dict': {}}, 'no_checkpoint.pth')
    if isinstance(arguments[0], str):
        Path('folder.py').write_text(FOLDER.format(base=DEMO / 'res8_digits.py', kind=arguments[0]))
        arguments = ['folder.py']
    lines = printed(capfd, *arguments)
    assert lines[0].startswith('error: ')
    assert len(lines) <= 5, lines
    assert named in ''.join(lines)


def test_an_error_of_a_test_stands_alone(place: Path, capfd: pytest.CaptureFixture) -> None:
    lines = printed(capfd, DEMO / 'res8_digits.py', 'none.pth', tool='test')
    assert lines[0].startswith('error: ')
    assert 'none.pth' in lines[0]
    assert len(lines) == 1


@pytest.mark.slow
def test_a_run_prints_its_whole_log(place: Path, capfd: pytest.CaptureFixture, demo_config: Callable) -> None:
    options = {'train_cfg.max_epochs': 1, 'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0)}
    demo_config('res8_digits', **options).dump('config.py')
    assert exit_status(TOOLS / 'train.py', 'config.py') is None
    text = ''.join(capfd.readouterr())
    (log,) = place.glob('work/*/*.log')
    for part in ('System environment:', 'train_dataloader = dict(', 'Epoch(val)'):
        assert text.count(part) == log.read_text().count(part) >= 1
    # but for a line about each weight
    assert 'paramwise_options -- ' not in text


def test_a_warning_that_was_held_back_is_printed_once(capfd: pytest.CaptureFixture) -> None:
    """mmengine's handlers leave out a warning that they have seen."""
    logger = MMLogger('of a console that is held back')
    held = [_HeldBack(handler) for handler in logger.handlers]
    for _ in range(2):
        logger.warning('mind the gap')
    assert 'gap' not in ''.join(capfd.readouterr())
    for each in held:
        each.release()
    logger.warning('mind the gap')
    assert ''.join(capfd.readouterr()).count('mind the gap') == 1


def test_several_processes_collect_results_without_a_folder(runner: Callable, demo_config: Callable) -> None:
    """And the workers of their loaders survive the signal that ends a training."""
    run = runner(demo_config(**{'val_dataloader.num_workers': 1}))
    metrics = [dict(type='Accuracy'), dict(type='DumpResults', out_file_path='a.pkl', collect_dir='results')]
    assert [metric.collect_device for metric in run.build_evaluator(metrics).metrics] == ['cpu', 'cpu']
    run._distributed = True
    assert [metric.collect_device for metric in run.build_evaluator(metrics).metrics] == ['gpu', 'cpu']
    loaders = [run.build_dataloader(run.cfg[f'{split}_dataloader']) for split in ('val', 'test')]
    # functools.partial is a builtin
    assert [type(loader.worker_init_fn).__module__ for loader in loaders] == ['icd_mmrazor.launch.signals', 'builtins']
