"""Job arrays of tools/benchmarks on a real Slurm, with a stand-in for the trainings."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT, TOOLS
from machines import read, shows, wait_until
from slurm import Slurm

BENCHMARKS = TOOLS / 'benchmarks'
PAIR = 'res20_res8_digits'
# in place of tools/benchmarks/run.py
RUNNER = f"""
import sys
from pathlib import Path
sys.path[:0] = {str(ROOT)!r}, {str(BENCHMARKS)!r}
import run
run.FRONT = Path({str(ROOT / 'tests' / 'tools' / 'stand_in_training.py')!r})
run.start()
"""


def test_an_array_is_warned_fails_resumes_and_ends_in_a_table(
    slurm: Slurm, teacher_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    run, jobs, cells = importlib.import_module('run'), Path('jobs'), Path('runs', 'own', 'published')
    arguments = ['--methods', 'kd', 'student', '--pairs', PAIR, '--work-dir', 'runs', '--slurm', 'jobs']
    options = ['train_cfg.max_epochs=3', f'model.teacher_ckpt={teacher_file("res20")}']
    arguments += ['--no-teacher-cache', '--cfg-options', *options]
    run.main(arguments)
    runner, script = Path('runner.py').resolve(), jobs / 'array.sbatch'
    runner.write_text(RUNNER)
    script.write_text(script.read_text().replace(str(BENCHMARKS / 'run.py'), str(runner)))
    cells.mkdir(parents=True)
    (cells / 'hold').write_text('kd 0 1')
    (cells / 'fail').write_text('student 0')

    slurm.output(0, 'bash', jobs / 'submit.sh')
    held, failing = (jobs / f'own-students_{line}.log' for line in (1, 2))
    wait_until(lambda: (cells / 'kd' / PAIR / 'seed_0' / 'epoch_1.pth').exists(), 120, lambda: read(held))
    shows(failing, 'no paint left')
    # as Slurm does when the time that --signal names has come
    job = slurm.output(0, 'squeue', '--noheader', '--name=own-students', '--format=%F_1').split()[0]
    slurm.output(0, 'scancel', '--signal=USR1', job)
    shows(held, 'stopped by SIGUSR1')
    (cells / 'hold').unlink()
    wait_until(lambda: not slurm.output(0, 'squeue', '--noheader'), 120, lambda: read(held))
    logs = sorted((cells / 'kd' / PAIR / 'seed_0').glob('*/vis_data/scalars.json'))
    assert [log.read_text().count('accuracy') for log in logs] == [1, 2]
    assert read(failing).count('no paint left') == 1  # not requeued
    assert '| KD | 30.20 |' in read(jobs / 'table.txt')
    assert '| student alone |' not in read(jobs / 'table.txt')
    run.main(arguments)
    assert '--array=2 ' in (jobs / 'submit.sh').read_text()
