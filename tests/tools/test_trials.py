"""The runner of trials as a user calls it, with a stand-in for the training front, and the table of what it leaves."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import ROOT, TOOLS

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError, UserError

RUNNER = TOOLS / 'benchmarks' / 'run_trials.py'
PAIR = 'res20_res8_digits'
EPOCHS = 3
DRIVER = """
import runpy, sys
from pathlib import Path
from icd_mmrazor.launch.command_line import run
main = runpy.run_path(sys.argv[1])['main']
run(lambda: main(sys.argv[3:], train=Path(sys.argv[2])))
"""
# a real process that resumes and leaves what a training does
STAND_IN = Path(__file__).with_name('stand_in_training.py')


@pytest.fixture
def arguments(teacher_file: Callable[..., str], tmp_path: Path) -> list[str]:
    """Two methods, two seeds, of a pair whose teacher is there."""
    options = [f'train_cfg.max_epochs={EPOCHS}', f'model.teacher_ckpt={teacher_file("res20")}']
    return [
        *('--methods', 'kd+icd', 'student', '--pairs', PAIR, '--seeds', '0', '1', '--jobs', '2'),
        *('--work-dir', str(tmp_path / 'runs'), '--cfg-options', *options),
    ]


@pytest.fixture(scope='module')
def tool() -> dict:
    return runpy.run_path(str(RUNNER))


@pytest.fixture
def run_here(tool: dict, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run the tool in this process, whose import of the stack is done; return what it prints."""

    def run(arguments: list[str]) -> str:
        tool['main'](arguments, train=STAND_IN)
        return capsys.readouterr().out

    return run


def runs_now(pid_file: Path) -> bool:
    try:
        status = (Path('/proc') / pid_file.read_text() / 'stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(')')[2].split()[0] != 'Z'


def starts(folder: Path) -> list[int]:
    """Return the epochs of each start of a cell."""
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    return [log.read_text().count('accuracy') for log in logs]


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_stopped_benchmark_goes_on(
    arguments: list[str], run_here: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Stopped politely, then killed, then finished: every epoch of every cell is trained once."""
    root = tmp_path / 'runs'
    root.mkdir()
    cells = {
        (method, seed): root / method / PAIR / f'seed_{seed}' for method in ('kd+icd', 'student') for seed in (0, 1)
    }
    held = cells['student', 1]
    for epoch, number, status in ((1, signal.SIGTERM, 128 + signal.SIGTERM), (2, signal.SIGKILL, -signal.SIGKILL)):
        (root / 'hold').write_text(f'student 1 {epoch}')
        runner = subprocess.Popen(
            [sys.executable, '-c', DRIVER, str(RUNNER), str(STAND_IN), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
        )
        until = time.monotonic() + 120
        while sum(starts(held)) < epoch or sum((cell / 'result.json').is_file() for cell in cells.values()) < 3:
            assert runner.poll() is None, runner.communicate()[0]
            assert time.monotonic() < until, 'the cells do not run'
            time.sleep(0.05)
        with pytest.raises(SettingError, match=f'in use by another runner .process {runner.pid} '):
            run_here(arguments)
        runner.send_signal(number)
        printed = runner.communicate()[0]
        assert runner.returncode == status
        assert ('the same command goes on' in printed) == (number == signal.SIGTERM)
        # a killed runner takes its trainings along
        while runs_now(held / 'pid'):
            assert time.monotonic() < until, 'the training outlives its runner'
            time.sleep(0.05)

    (root / 'hold').unlink()
    printed = run_here(arguments)
    assert '3 finished before' in printed
    assert {name: starts(cell) for name, cell in cells.items()} == {
        name: [1, 1, 1] if cell == held else [3] for name, cell in cells.items()
    }
    assert {name: json.loads((cell / 'result.json').read_text())['accuracy'] for name, cell in cells.items()} == {
        ('kd+icd', 0): 30.6, ('kd+icd', 1): 31.6, ('student', 0): 30.7, ('student', 1): 31.7,
    }  # fmt: skip
    # once more: nothing is left to do
    assert re.search(r'4 cells .* 4 finished before', run_here(arguments))
    assert starts(held) == [1, 1, 1]

    runpy.run_path(str(TOOLS / 'analysis' / 'collect_results.py'))['main']([str(root)])
    table = capsys.readouterr().out
    assert '| student | 31.20 ± 0.71 (n=2) † |' in table
    assert '| kd+icd  | 31.10 ± 0.71 (n=2) † |' in table
    assert f'- student on {PAIR}: seed 0, 1: finished (with --cfg-options train_cfg.max_epochs=3)' in table
    assert f'- kd+icd on {PAIR}: seed 0, 1: finished (with --cfg-options train_cfg.max_epochs=3 model.teach' in table


def test_a_failed_cell_stops_no_other_and_is_named(arguments: list[str], run_here: Callable, tmp_path: Path) -> None:
    root = tmp_path / 'runs'
    root.mkdir()
    (root / 'fail').write_text('kd+icd 0')
    with pytest.raises(UserError, match=r'1 of 4 cells failed[^$]*kd\+icd res20_res8_digits seed 0: .*\nno paint left'):
        run_here(arguments)
    assert len(list(root.glob('*/*/*/result.json'))) == 3
    (root / 'fail').unlink()
    assert 'all 4 cells are done' in run_here(arguments)
    # half of the cores each, and no GPU
    (environment,) = {file.read_text() for file in root.glob('*/*/*/environment')}
    assert environment == str(max(1, len(os.sched_getaffinity(0)) // 2))


def test_a_folder_with_another_configuration_is_refused(
    arguments: list[str], run_here: Callable, tmp_path: Path
) -> None:
    run_here(arguments)
    other = [argument.replace('max_epochs=3', 'max_epochs=4') for argument in arguments]
    with pytest.raises(SettingError) as refused:
        run_here(other)
    message = str(refused.value)
    assert message.count('another configuration: train_cfg.max_epochs is 3 there, 4 asked.') == 4
    # one that was not begun here
    student = tmp_path / 'runs' / 'student' / PAIR
    (student / 'seed_0' / 'trial.json').unlink()
    (student / 'seed_1' / 'trial.json').write_text('{')
    with pytest.raises(SettingError) as refused:
        run_here(arguments)
    assert 'seed_0 holds something that this tool did not begin' in str(refused.value)
    assert 'trial.json is broken' in str(refused.value)


@pytest.mark.parametrize(
    ('changes', 'messages'),
    [
        (
            ['--methods', 'idc', 'FitNet', 'kd+rdk', '--pairs', PAIR, 'res23x4_res8x4_cifar100', '--seeds', '-1'],
            ["no method 'idc'. Did you mean .*icd", "'FitNet'. Did you mean fitnet", "'rdk'. Did you mean .*rkd",
             "no pair 'res23x4_res8x4_cifar100'. Did you mean res32x4_res8x4_cifar100", 'seed -1:'],
        ),
        (['--methods', 'xxxxxxxx'], ["no method 'xxxxxxxx'. There are: ab, at, "]),
        (['--cfg-options', 'model.teacher_ckpt=a.pth'], ['teacher a.pth: there is no such file .1 methods x pairs']),
        (['--cfg-options', 'randomness.seed=3'], ['give --seeds']),
        (['--cfg-options', 'seed'], ['give KEY=VALUE']),
        (['--cfg-options', 'kd:a.b=1'], ["for the cells of 'kd' alone, and --methods has: kd.icd, student"]),
        (
            ['--methods', 'ab', 'kd', 'icd', '--cfg-options', 'model.distiller.initial_epochs=2'],
            ['does not fit kd: ', 'does not fit icd: ', 'METHODS:model.distiller.initial_epochs=2'],
        ),
        (['--methods', 'ab', '--cfg-options', 'train_cfg.max_epochs=2'], ['max_epochs=2 and model.distiller.initial_']),
        (['--cfg-options', 'train_cfg.max_epochs.x=1'], ['--cfg-options do not fit the config of kd.icd: ']),
        (['--jobs', '0'], ['at least 1']),
        (['--gpus', '0', '--jobs', '1'], ['with --gpus leave it out']),
    ],
    ids=lambda value: ' '.join(value)[:40],
)  # fmt: skip
def test_refused_before_anything_starts(
    changes: list[str], messages: list[str], arguments: list[str], run_here: Callable, tmp_path: Path
) -> None:
    with pytest.raises(SettingError) as refused:
        run_here([*arguments, *changes])
    for message in messages:
        assert re.search(message, str(refused.value))
    assert not (tmp_path / 'runs').exists()


def test_options_of_one_method(arguments: list[str], run_here: Callable, tmp_path: Path) -> None:
    """Others are not touched, and what stands in the folder does not depend on how it was asked."""
    more = [
        *arguments,
        'model.architecture.backbone.depth=14',
        'kd+icd:optim_wrapper.optimizer.lr=0.01',
        '--seeds',
        '3',
    ]
    run_here(more)
    kd, student = (
        json.loads((tmp_path / 'runs' / methods / PAIR / 'seed_3' / 'trial.json').read_text())
        for methods in ('kd+icd', 'student')
    )
    assert kd['optim_wrapper']['optimizer']['lr'] == 0.01 != student['optim_wrapper']['optimizer']['lr']
    assert kd['model']['architecture']['backbone']['depth'] == student['model']['backbone']['depth'] == 14
    assert student['cfg_options'] == [f'train_cfg.max_epochs={EPOCHS}', 'model.backbone.depth=14']
    other = [option.replace('depth=14', 'depth=20') for option in more]
    with pytest.raises(SettingError, match=r'backbone.depth is 14 there, 20 asked'):
        run_here(other)
    index = more.index('--cfg-options') + 1
    assert '2 finished before' in run_here([*more[:index], f'train_cfg.max_epochs={EPOCHS}', *more[index:]])


def test_what_does_not_fit_is_refused_or_left_out(
    arguments: list[str], run_here: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose = recipes.compose

    def refusing(pair: str, methods: list[str]) -> object:
        if 'icd' in methods:
            raise SettingError(f'{"+".join(methods)} is too wide')
        return compose(pair, methods)

    monkeypatch.setattr(recipes, 'compose', refusing)
    more = [*arguments, '--methods', 'icd', 'student', 'kd+icd']
    with pytest.raises(SettingError, match=r'icd is too wide\n  kd\+icd is too wide\n  --skip-unfit leaves these out'):
        run_here(more)
    printed = run_here([*more, '--skip-unfit'])
    assert 'left out:\n  icd is too wide\n  kd+icd is too wide\n' in printed
    assert 'all 2 cells are done' in printed
    with pytest.raises(SettingError, match='no cell is left'):
        run_here([*arguments, '--methods', 'icd', '--skip-unfit'])
    assert {folder.name for folder in (tmp_path / 'runs').iterdir()} == {'student', '.lock'}


def test_gpus_are_those_that_this_process_sees(tool: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)

    def visible(gpus: str) -> list[str]:
        return [slot['CUDA_VISIBLE_DEVICES'] for slot in tool['slots_for'](gpus, None)]

    assert visible('3,0') == ['3', '0']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '6,7,GPU-abc,1')
    assert visible('2,0') == ['GPU-abc', '6']
    for wrong in ('4', '0,0', '0,00', 'a', '-1', '0;1', '0,'):
        with pytest.raises(SettingError, match=f'--gpus {wrong}: .* The GPUs here: 0 to 3'):
            visible(wrong)
    slots = tool['slots_for']('3,0,1,2', None, processes=2)
    assert [slot['CUDA_VISIBLE_DEVICES'] for slot in slots] == ['1,6', '7,GPU-abc']
    with pytest.raises(SettingError, match='--gpus 0,1,2: cells in 2 processes need 2 GPUs each'):
        tool['slots_for']('0,1,2', None, processes=2)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    with pytest.raises(SettingError, match='The GPUs here: none'):
        visible('0')


def test_cores_are_shared_by_processes(tool: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tool['slots_for'].__globals__, 'number_of_cores', lambda: 8)
    for jobs, processes, threads in ((None, 1, ['2'] * 4), (None, 2, ['1'] * 4), (2, 2, ['2'] * 2), (1, 16, ['1'])):
        assert [slot['OMP_NUM_THREADS'] for slot in tool['slots_for'](None, jobs, processes)] == threads
    with pytest.raises(SettingError, match='--processes 0: give a number from 1'):
        tool['slots_for'](None, None, 0)
