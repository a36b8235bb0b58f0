"""cache_teacher.py as a user calls it, the training that it names, and the tools after that."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, ROOT, TOOLS, exit_status

DEMO = CONFIGS / 'demo' / 'icd_res20_res8_digits.py'


@pytest.fixture
def options(images_file: Path, teacher_file: Callable, tmp_path: Path) -> list[str]:
    """Settings that put the demo's config on the small problem, with a cache."""
    data = [f'{split}_dataloader.dataset.data_file={images_file}' for split in ('train', 'val', 'test')]
    short = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'randomness.seed=0']
    cache = ['model.teacher_cache.views=1', f'model.teacher_cache.path={tmp_path / "outputs"}']
    return ['--cfg-options', f'model.teacher_ckpt={teacher_file("res20")}', *data, *short, *cache]


@pytest.mark.slow
@pytest.mark.stack
def test_the_command_that_it_names_trains_without_the_teacher(options: list[str], capfd: pytest.CaptureFixture) -> None:
    assert exit_status(TOOLS / 'cache_teacher.py', DEMO, *options) is None
    printed = capfd.readouterr()
    *before, last = printed.out.splitlines()
    assert [re.sub(r'/.*/', '', line) for line in before] == [
        '64 outputs of the teacher (CIFARResNet), for a view of 64 images, 19.46 KB in all',
        'folder: outputs',
        'All 64 outputs are stored. Train without the teacher:',
    ]
    assert '64.0/64.0' in printed.err
    assert 'mmengine' not in printed.err + printed.out
    Path(options[1].partition('=')[2]).unlink()
    python, tool, *arguments = shlex.split(last)
    assert python == 'python'
    assert exit_status(ROOT / tool, *arguments) is None
    report = ''.join(capfd.readouterr())
    assert 'FrozenTeacherDistill: the teacher is not loaded: its outputs are in' in report
    lines = report[report.index('What is being distilled') :].splitlines()[1:4]
    assert lines[0] == '  teacher  CIFARResNet(depth=20), not evaluated: it is not in memory'
    assert lines[1].startswith('           weights not loaded: its outputs are in /')
    assert lines[2] == "           images  the student's"
    assert 'The teacher was run on 0 images for 64 outputs (0.0%).' in report
    # the student is exported, tested and reported as always
    work_dir = Path('work_dirs', DEMO.stem)
    exported = torch.load(work_dir / 'student_last.pth', weights_only=True)['state_dict']
    trained = torch.load(work_dir / 'epoch_1.pth', weights_only=True)['state_dict']
    assert all(torch.equal(weight, trained[f'architecture.{name}']) for name, weight in exported.items())
    assert exit_status(TOOLS / 'analysis' / 'report.py', work_dir) is None
    page = (work_dir / 'report.html').read_text()
    assert 'it is not in memory' in page
    assert 'of the teacher&#x27;s parameters' not in page
    assert "of the teacher's parameters" not in page
    # last: within the second in which the training started, mmengine would replace the config that the report reads
    assert exit_status(TOOLS / 'test.py', work_dir / DEMO.name, work_dir / 'epoch_1.pth') is None


@pytest.mark.stack
def test_what_cannot_be_filled_ends_with_one_message(options: list[str], capfd: pytest.CaptureFixture) -> None:
    first = [each.replace('views=1', 'views=first') for each in options]
    assert exit_status(TOOLS / 'cache_teacher.py', DEMO, *first) == 1
    assert capfd.readouterr().err.startswith("\nerror: model.teacher_cache.views='first'")
    plain = CONFIGS / 'demo' / 'res8_digits.py'
    assert exit_status(TOOLS / 'cache_teacher.py', plain) == 1
    assert 'not of a distillation: its model is ImageClassifier' in capfd.readouterr().err
    assert exit_status(TOOLS / 'cache_teacher.py', DEMO, '--part', '1/2', '--processes', '2') == 2
    assert 'not allowed with' in capfd.readouterr().err
