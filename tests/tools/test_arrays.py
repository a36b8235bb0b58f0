"""Job arrays of studies, with a stand-in for the trainings and without Slurm: tests/cluster has it."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.workflow.lock import WorkFolderLock

PAIR = 'res20_res8_digits'
JOBS, CELLS = Path('jobs'), Path('runs', 'own', 'published')


def lines(name: str) -> list[list[str]]:
    return [shlex.split(line) for line in (JOBS / name).read_text().splitlines()]


def results(root: Path) -> dict[str, dict]:
    """Return the results of a study by the folders of their trainings, without times."""
    found = {str(file.parent.relative_to(root)): json.loads(file.read_text()) for file in root.rglob('result.json')}
    changing = ('session', 'seconds', 'ended', 'teacher_images')
    return {name: {key: result[key] for key in result.keys() - {*changing}} for name, result in found.items()}


def test_elements_train_what_the_runner_trains(
    arguments: list[str], run: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    arguments = [*arguments, 'student:default_hooks.logger.interval=7', "kd+dcd:experiment_name=it's mine"]
    run.main([*arguments, '--slurm', str(JOBS)])
    assert not Path('runs').exists()
    assert 'bash jobs/submit.sh' in capsys.readouterr().out
    assert '--array=1-4%2 ' in (JOBS / 'submit.sh').read_text()
    assert '--gres' not in (JOBS / 'array.sbatch').read_text()
    assert not (JOBS / 'teachers.txt').exists()
    for words in lines('students.txt'):
        run.main(words)
        assert '1 trainings, 0 finished before; 1 at a time\n' in capsys.readouterr().out
    run.main(arguments)
    assert '4 trainings, 4 finished before' in capsys.readouterr().out
    run.main([*arguments, '--work-dir', 'plain'])
    assert len(results(Path('plain'))) == 4
    assert results(Path('plain')) == results(Path('runs'))
    capsys.readouterr()
    run.main(lines('students.txt')[0])
    assert '1 trainings, 1 finished before' in capsys.readouterr().out


def test_lists_stay_and_arrays_leave_out_what_has_finished(
    arguments: list[str], run: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    arguments = [*arguments, '--slurm', str(JOBS)]
    run.main(arguments)
    students, script = (JOBS / 'students.txt').read_text(), JOBS / 'array.sbatch'
    script.write_text(script.read_text().replace('4:00:00', '8:00:00'))
    run.main(lines('students.txt')[1])
    run.main(arguments)
    assert '--array=1,3-4%2 ' in (JOBS / 'submit.sh').read_text()
    assert (JOBS / 'students.txt').read_text() == students
    assert '8:00:00' in script.read_text()
    changed = [argument.replace('max_epochs=3', 'max_epochs=4') for argument in (*arguments, '--work-dir', 'more')]
    for others in (changed, [*arguments, '--work-dir', 'more'], [*arguments, '--seeds', '0']):
        with pytest.raises(SettingError, match='--slurm jobs has the lists of other trainings'):
            run.main(others)
    for words in lines('students.txt'):
        run.main(words)
    capsys.readouterr()
    run.main(arguments)
    assert 'all 4 trainings are done' in capsys.readouterr().out


def test_teachers_come_first(run: ModuleType, tool: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tool('studies')
    point = parts.Point(('student', 'icd'), ('train_cfg.max_epochs=2',), processes=2)
    small = parts.Study('', ('res20_res8_cifar10-5k',), {'published': point}, ('res20_cifar10-16k',), seeds=(0, 1))
    monkeypatch.setitem(parts.STUDIES, 'small', small)
    arguments = ['small', '--work-dir', 'runs', '--slurm', str(JOBS), '--gpus', '0,1']
    run.main(arguments)
    icd = ['small', '--points', 'published', '--methods', 'icd', '--pairs', 'res20_res8_cifar10-5k', '--seeds', '0']
    icd += ['--work-dir', str(Path('runs').resolve()), '--gpus', '0,1', '--max-cache-size', '16.0']
    assert lines('teachers.txt') == [[*icd, '--teachers-only']]
    assert icd in lines('students.txt')
    teachers, students, table = (JOBS / 'submit.sh').read_text().splitlines()[-3:]
    assert '--array=1 ' in teachers
    assert '--array=1-4 ' in students
    assert '--dependency="afterok:${teachers%;*}"' in students
    assert '--dependency="afterany:${students%;*}"' in table
    script = (JOBS / 'array.sbatch').read_text()
    assert '--cpus-per-task=8 --gres=gpu:2\n' in script
    # one that is there comes no more, and the list is the same
    teacher = Path(recipes.compose('res20_res8_cifar10-5k', ['icd']).model.teacher_ckpt)
    teacher.parent.mkdir(parents=True)
    teacher.touch()
    run.main(arguments)
    assert 'teachers.txt' not in (JOBS / 'submit.sh').read_text()


@pytest.mark.parametrize('gpus', ['0', '1', '0,2', '2,3', 'a'])
@pytest.mark.usefixtures('study')
def test_gpus_of_elements_are_numbered_from_0(gpus: str, run: ModuleType) -> None:
    with pytest.raises(SettingError, match=f'--gpus {gpus}'):
        run.main(['small', '--gpus', gpus, '--work-dir', 'runs', '--slurm', str(JOBS)])
    assert not JOBS.exists()


def test_a_folder_that_another_command_trains_in_is_left_alone(arguments: list[str], run: ModuleType) -> None:
    """Before anything starts if it has started there, else when its turn comes; the others are trained."""
    with WorkFolderLock(CELLS / 'student' / PAIR / 'seed_1'):
        with pytest.raises(UserError, match=r'1 of 4 trainings failed[^$]*seed_1 is in use by another command'):
            run.main(arguments)
        assert len(results(CELLS)) == 3
    folder = CELLS / 'student' / PAIR / 'seed_0'
    (folder / 'result.json').unlink()
    with WorkFolderLock(folder):
        with pytest.raises(SettingError, match=r'nothing was started:[^$]*seed_0 is in use by another command'):
            run.main(arguments)
        run.main([*arguments, '--seeds', '1'])
        assert len(results(CELLS)) == 3
    run.main(arguments)
    assert len(results(CELLS)) == 4
