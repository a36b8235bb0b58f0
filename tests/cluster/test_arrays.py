"""Job arrays of tools/benchmarks on a real Slurm, with a stand-in for the trainings."""

import importlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ROOT, TOOLS

BENCHMARKS = TOOLS / 'benchmarks'
PAIR = 'res20_res8_digits'
STARTED = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
import run
run.FRONT = Path({str(ROOT / 'tests' / 'tools' / 'stand_in_training.py')!r})
run.start()
"""


# DRAFT, to be replaced by the fixture of conftest.py: a function that runs a command on the login node
@pytest.fixture(scope='module')
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    if not (scripts := os.environ.get('CLUSTER_SCRIPTS')):
        pytest.skip('set CLUSTER_SCRIPTS to the folder of slurm_up.sh')
    folder = tmp_path_factory.mktemp('cluster')
    subprocess.run([f'{scripts}/slurm_up.sh', folder, '2'], check=True)

    def at_login(*command: object) -> str:
        words = [f'{scripts}/netns_exec.sh', folder, '0', *command]
        environment = {**os.environ, 'SLURM_CONF': f'{folder}/slurm.conf', 'PYTHONPATH': str(ROOT)}
        return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True, env=environment).stdout

    yield at_login
    subprocess.run([f'{scripts}/slurm_down.sh', folder], check=True)


def wait_for(happened: Callable[[], object], what: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f'{what} within {seconds} s'
        time.sleep(0.2)


def text_of(file: Path) -> str:
    return file.read_text() if file.is_file() else ''


@pytest.mark.slow
def test_an_array_is_warned_fails_resumes_and_ends_in_a_table(
    slurm: Callable[..., str], teacher_file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    run, jobs, cells = importlib.import_module('run'), Path('jobs'), Path('runs', 'own', 'published')
    options = ['train_cfg.max_epochs=3', f'model.teacher_ckpt={teacher_file("res20")}']
    arguments = ['--methods', 'kd', 'student', '--pairs', PAIR, '--work-dir', 'runs', '--slurm', str(jobs)]
    arguments = [*arguments, '--no-teacher-cache', '--cfg-options', *options]
    run.main(arguments)
    Path('started.py').write_text(STARTED)
    script = jobs / 'array.sbatch'
    script.write_text(script.read_text().replace(str(BENCHMARKS / 'run.py'), str(Path('started.py').resolve())))
    cells.mkdir(parents=True)
    (cells / 'hold').write_text('kd 0 1')
    (cells / 'fail').write_text('student 0')

    slurm('bash', jobs / 'submit.sh')
    kd, student = (jobs / f'own-students_{number}.log' for number in (1, 2))
    wait_for(lambda: (cells / 'kd' / PAIR / 'seed_0' / 'epoch_1.pth').exists(), 'the first element trains')
    wait_for(lambda: 'no paint left' in text_of(student), 'the second one fails')
    # what --signal=USR1@120 sends before a time limit; the table waits
    job = slurm('squeue', '--noheader', '--array', '--name=own-students', '--format=%i').split()[0]
    assert job.endswith('_1')
    slurm('scancel', '--signal=USR1', job)
    wait_for(lambda: 'stopped by SIGUSR1' in text_of(kd), 'the first one ends')
    (cells / 'hold').unlink()
    wait_for(lambda: 'BeginTime' in slurm('squeue', '--noheader', '--array', '--format=%r'), 'it is requeued')
    slurm('scontrol', 'update', f'JobId={job}', 'StartTime=now')
    wait_for(lambda: not slurm('squeue', '--noheader'), 'all jobs end')
    logs = sorted((cells / 'kd' / PAIR / 'seed_0').glob('*/vis_data/scalars.json'))
    assert [log.read_text().count('accuracy') for log in logs] == [1, 2]
    assert 'published kd res20_res8_digits seed 0: 30.20 %' in text_of(kd)
    # the one that failed was not requeued
    assert text_of(student).count('no paint left') == 1
    assert '| KD | 30.20 |' in text_of(jobs / 'table.txt')
    assert '| student alone |' not in text_of(jobs / 'table.txt')
    # to be submitted again
    run.main(arguments)
    assert '--array=2 ' in (jobs / 'submit.sh').read_text()
