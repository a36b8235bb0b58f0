"""tools/gpu_check.py: its commands, what it makes of their ends, and its report. CI runs the rehearsal itself."""

import importlib
import json
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from helpers import TOOLS

from icd_mmrazor.configuration.files import read_config_file

REFUSAL = 'error: --amp fp16 needs a GPU, and this machine shows none. Leave it out, or give --amp bf16.'


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module('gpu_check')


@pytest.mark.parametrize(('device', 'gpus'), [('cpu', 0), ('cuda', 1), ('cuda', 4)])
def test_steps(tool: ModuleType, tmp_path: Path, device: str, gpus: int) -> None:
    steps = {step.name: step for step in tool.steps(tmp_path / 'a folder', device, gpus)}
    words = {name: shlex.split(step.command) for name, step in steps.items()}
    assert [*steps][:3] == ['data', 'tests', 'teacher']
    assert all((tool.ROOT / each).is_file() for command in words.values() for each in command if each[:6] == 'tools/')
    assert all(any('a folder/' in each for each in command) for name, command in words.items() if name != 'tests')
    precisions = {f'{name}{how}' for name in ('fp32', 'fp16', 'bf16') for how in ('', '-compiled')}
    assert precisions <= {*steps}
    numbers = {name.split('-')[1] for name in steps if name.startswith('processes')}
    assert numbers == {'1', '2' if device == 'cpu' else str(gpus)}
    assert {name.split('-')[2] for name in steps if name.startswith('step-time')} == (
        {'8'} if device == 'cpu' else {'64', '512'}
    )


def test_what_is_rehearsed(tool: ModuleType, tmp_path: Path) -> None:
    names = [step.name for step in tool.steps(tmp_path, 'cpu', 0) if step.rehearsed]
    trainings = ['teacher', 'fp32', 'fp16', 'bf16', 'fp32-compiled', 'processes-2']
    assert names == ['data', 'tests', *trainings, 'step-time-8']


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_configs_find_the_files_of_the_report(tool: ModuleType, tmp_path: Path, device: str) -> None:
    tool.write_configs(tmp_path, device)
    teacher, distil = (read_config_file(tmp_path / f'{name}.py') for name in ('teacher', 'distil'))
    for cfg in (teacher, distil):
        files = {cfg[f'{split}_dataloader'].dataset.data_file for split in ('train', 'val', 'test')}
        assert files == {str(tmp_path / 'digits.npz')}
        assert cfg.randomness.seed == 0
    assert distil.model.teacher_ckpt == str(tmp_path / f'teacher/epoch_{teacher.train_cfg.max_epochs}.pth')
    # batches of one size
    assert distil.train_dataloader.dataset.indices % distil.train_dataloader.batch_size == 0
    assert distil.train_cfg.max_epochs % distil.train_cfg.val_interval == 0


@pytest.mark.parametrize(
    ('device', 'status', 'log', 'outcome', 'result'),
    [
        ('cpu', 0, 'all well', 'passed', ''),
        ('cpu', 1, f'start\n\n{REFUSAL}\n', 'not on a CPU', REFUSAL.removeprefix('error: ')),
        ('cuda', 1, REFUSAL, 'failed', 'exit status 1'),
        ('cuda', None, 'slow', 'failed', 'took too long'),
        ('cuda', -11, '', 'failed', 'exit status -11'),
        (
            'cuda',
            0,
            'torch_compile=True does not work here, so training continues without it.',
            'failed',
            'was not com',
        ),
    ],
)
def test_ends(
    tool: ModuleType, tmp_path: Path, device: str, status: int | None, log: str, outcome: str, result: str
) -> None:
    (tmp_path / 'one.log').write_text(log)
    found = tool.judge(tool.Step('one', ''), tmp_path, device, status)
    assert (found.outcome, found.result[: len(result)]) == (outcome, result)
    assert found.end_of_log == (log.strip() if outcome == 'failed' else '')


def test_results(tool: ModuleType, tmp_path: Path) -> None:
    summaries = ['13 passed, 2 skipped, 9 deselected in 4.05s', '=== 1 failed, 2 passed in 61.20s (0:01:01) ===']
    read = [tool.result_in('tests', tmp_path, f'...\n{summary}\n') for summary in summaries]
    assert read == ['13 passed, 2 skipped, 9 deselected', '1 failed, 2 passed']
    (tmp_path / 'step-time-8.json').write_text(
        json.dumps({'results': [{'contenders': {'plain': {'median_ms': 1.26}}}]})
    )
    assert tool.result_in('step-time-8', tmp_path, '') == 'plain 1.3 ms'
    scalars = tmp_path / 'fp32' / '20261128_120000' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    rows = [{'accuracy/top1': 50.0, 'step': 1}, {'loss': 1.0, 'step': 5}, {'accuracy/top1': 87.64, 'step': 2}]
    scalars.write_text('\n'.join(map(json.dumps, rows)))
    assert tool.result_in('fp32', tmp_path, '') == 'accuracy 87.6 %'
    assert tool.result_in('bf16', tmp_path, '') == ''


def test_commands_are_run(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = 'import os, sys; print(os.getcwd(), os.environ["CUDA_VISIBLE_DEVICES"] + "."); sys.exit(3)'
    found = tool.carry_out(tool.Step('one', shlex.join(['python', '-c', shown])), tmp_path, 'cpu')
    assert (found.outcome, found.end_of_log) == ('failed', f'{tool.ROOT} .')
    assert (
        tool.carry_out(tool.Step('two', 'no such command', rehearsed=False), tmp_path, 'cpu').outcome == 'not rehearsed'
    )
    monkeypatch.setattr(tool, 'LIMIT', 0.1)
    found = tool.carry_out(tool.Step('three', 'sleep 60'), tmp_path, 'cuda')
    assert (found.outcome, found.result) == ('failed', 'took too long')


def test_the_report_shows_failures_first(tool: ModuleType) -> None:
    good = tool.Outcome(tool.Step('fp32', 'python train.py'), 'passed', 'accuracy 87.6 %', 12.4)
    bad = tool.Outcome(tool.Step('fp16', 'python train.py --amp'), 'failed', 'exit status 1', 3.0, 'NaN\nin the loss')
    text = tool.report({'GPU 0': 'Some card'}, [good, bad], left=2)
    assert 'Failed: fp16. It took 15 s. **2 steps were not run.**' in text
    for line in (
        '| GPU 0 | Some card |',
        '| fp32 | passed | 12 | accuracy 87.6 % |',
        '## fp16: exit status 1',
        'The end of `fp16.log`:',
        'NaN',
        'python train.py --amp  # fp16',
    ):
        assert f'\n{line}\n' in text
    text = tool.report({}, [good])
    assert 'Nothing failed. It took 12 s. Each' in text
    assert '##' not in text.split('## Commands')[0]
