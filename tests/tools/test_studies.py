"""Studies as a user calls them, with a stand-in for the trainings: run, killed, resumed, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import ROOT, TOOLS

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.signals import Stopped

BENCHMARKS = TOOLS / 'benchmarks'
STAND_IN = Path(__file__).with_name('stand_in_training.py')
PAIR = 'res20_res8_digits'
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import run
run.FRONT = Path(sys.argv[2])
del sys.argv[1:3]
run.start()
"""


def is_running(pid_file: Path) -> bool:
    try:
        status = (Path('/proc') / pid_file.read_text() / 'stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(')')[2].split()[0] != 'Z'


def epochs_of_starts(folder: Path) -> list[int]:
    """Return the number of epochs that each start of a training logged."""
    return [log.read_text().count('accuracy') for log in sorted(folder.glob('*/vis_data/scalars.json'))]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_stopped_study_resumes(
    arguments: list[str], run: ModuleType, tool: Callable, capsys: pytest.CaptureFixture
) -> None:
    """Terminated, then killed, then warned of a time limit, then finished: every epoch is trained once."""
    root = Path('runs', 'own', 'published')
    root.mkdir(parents=True)
    folders = {(name, seed): root / name / PAIR / f'seed_{seed}' for name in ('kd+icd', 'student') for seed in (0, 1)}
    held = folders['student', 1]
    endings = (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL), (signal.SIGUSR1, 138)
    for epoch, (number, status) in enumerate(endings, 1):
        (root / 'hold').write_text(f'student 1 {epoch}')
        command = [sys.executable, '-c', DRIVER, BENCHMARKS, STAND_IN, *arguments]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        runner = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, env=environment)
        until = time.monotonic() + 120
        while sum(epochs_of_starts(held)) < epoch or len(list(root.rglob('result.json'))) < 3:
            assert runner.poll() is None, runner.communicate()[1]
            assert time.monotonic() < until, 'nothing is trained'
            time.sleep(0.05)
        with pytest.raises(SettingError, match='in use'):
            run.main(arguments)
        runner.send_signal(number)
        assert ('Repeat the command' in runner.communicate()[1]) == (number != signal.SIGKILL)
        assert runner.returncode == status
        # a killed runner takes its trainings along
        while is_running(held / 'pid'):
            assert time.monotonic() < until, 'the training outlives its runner'
            time.sleep(0.05)

    (root / 'hold').unlink()
    run.main(arguments)
    assert '4 trainings, 3 finished before' in capsys.readouterr().out
    assert {name: epochs_of_starts(folder) for name, folder in folders.items()} == {
        name: [1, 1, 1] if folder == held else [3] for name, folder in folders.items()
    }
    run.main(arguments)
    assert '4 finished before' in capsys.readouterr().out
    results = {name: json.loads((folder / 'result.json').read_text()) for name, folder in folders.items()}
    assert {name: result['accuracy'] for name, result in results.items()} == {
        ('kd+icd', 0): 30.6, ('kd+icd', 1): 31.6, ('student', 0): 30.7, ('student', 1): 31.7,
    }  # fmt: skip
    assert [name for name, result in results.items() if result['resumed']] == [('student', 1)]

    tool('table').main(['runs'])
    shown = capsys.readouterr().out
    assert '| student alone | 31.20 ± 0.71 |' in shown
    assert '| KD+ICD | 31.10 ± 0.71 | -0.10 |' in shown
    assert f'- student on {PAIR}: --cfg-options train_cfg.max_epochs=3\n' in shown


def test_a_failed_training_stops_no_other_and_is_named(arguments: list[str], run: ModuleType) -> None:
    root = Path('runs', 'own', 'published')
    root.mkdir(parents=True)
    (root / 'fail').write_text('kd+icd 0')
    with pytest.raises(UserError, match=r'1 of 4 trainings[^$]*kd\+icd res20_res8_digits seed 0[^$]*no paint left'):
        run.main(arguments)
    assert len(list(root.rglob('result.json'))) == 3
    (root / 'fail').unlink()
    run.main(arguments)
    assert len(list(root.rglob('result.json'))) == 4
    # half of the cores each, and no GPU
    (environment,) = {file.read_text() for file in root.glob('*/*/*/environment')}
    assert environment == str(max(1, len(os.sched_getaffinity(0)) // 2))


def test_a_training_that_has_ended_gets_no_signal(
    tool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process id may be that of another program by then."""
    training = tool('trainings').Training('short', tmp_path, [sys.executable, '-c', ''], epochs=1)
    training.run({})
    assert 'without accuracy/top1 of epoch 1' in training.failure
    monkeypatch.setattr(os, 'killpg', lambda *_: pytest.fail('a signal'))
    training.stop(signal.SIGTERM)


def test_a_training_that_slurm_has_warned_ends_the_study(tool: Callable, tmp_path: Path) -> None:
    """Not as one that failed: the exit status says that there is more to train."""
    for number, end in enumerate(('sys.exit(138)', 'os.kill(os.getpid(), signal.SIGUSR1)')):
        command = [sys.executable, '-c', f'import os, signal, sys; {end}']
        training = tool('trainings').Training('warned', tmp_path / str(number), command, epochs=1)
        with pytest.raises(Stopped) as stopped:
            tool('trainings').run_all([training], [{}])
        assert stopped.value.status == 138


def test_a_folder_with_another_config_is_refused(arguments: list[str], run: ModuleType) -> None:
    run.main(arguments)
    with pytest.raises(SettingError) as refused:
        run.main([argument.replace('max_epochs=3', 'max_epochs=4') for argument in arguments])
    assert str(refused.value).count('train_cfg.max_epochs is 3 there, 4 here') == 4
    student = Path('runs', 'own', 'published', 'student', PAIR)
    (student / 'seed_0' / 'trial.json').unlink()
    (student / 'seed_1' / 'trial.json').write_text('{')
    with pytest.raises(SettingError, match=r'seed_0 is not empty[^$]*seed_1/trial.json'):
        run.main(arguments)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (['--methods', 'idc'], "'idc'. Did you mean .*icd"),
        (['--pairs', 'res23x4_res8x4_cifar100'], 'Did you mean .*res32x4_res8x4_cifar100'),
        (['--methods', 'fsp', '--pairs', 'wrn40-2_wrn40-1_cifar100', '--cfg-options', 'a=1'], 'fsp does not fit'),
        (['--seeds', '-1'], '--seeds -1'),
        (['--cfg-options', 'model.teacher_ckpt=a.pth'], 'teacher a.pth'),
        (['--cfg-options', 'randomness.seed=3'], 'randomness.seed'),
        (['--cfg-options', 'seed'], '--cfg-options seed'),
        (['--cfg-options', 'kd:a.b=1'], "--methods has no 'kd'"),
        (['--methods', 'kd', '--cfg-options', 'model.distiller.initial_epochs=2'], 'initial_epochs'),
        (['--cfg-options', 'model.random_techer=True'], 'random_techer'),
        (['--cfg-options', 'train_cfg.max_epochs.x=1'], 'train_cfg.max_epochs.x'),
        (['--cfg-options', 'train_fcg.max_epochs=1'], 'train_fcg'),
        (['--gpus', '0', '--jobs', '1'], '--jobs'),
        (['--work-dir', __file__], '--work-dir'),
    ],
    ids=lambda value: ' '.join(value)[:40] if isinstance(value, list) else '',
)
def test_refused_before_anything_starts(
    changes: list[str], message: str, arguments: list[str], run: ModuleType
) -> None:
    with pytest.raises(SettingError, match=message):
        run.main([*arguments, *changes])
    assert not Path('runs').exists()


@pytest.mark.parametrize('changes', [['--jobs', '0'], ['--processes', '-1'], ['--points', 'published']], ids=' '.join)
def test_arguments_that_make_no_sense(
    changes: list[str], arguments: list[str], run: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        run.main([*arguments, *changes])
    assert changes[0] in capsys.readouterr().err
    assert not Path('runs').exists()


def test_each_training_gets_its_own_options(run: ModuleType) -> None:
    options = [
        'ab:train_cfg.max_epochs=12',
        'train_cfg.max_epochs=10',
        'model.architecture.backbone.depth=14',
        'model.teacher_ckpt=a=b:c.pth',
        'dcd+kd:model.distiller.embed_dims=32',
        'student:model.architecture.head.topk=(1,)',
    ]
    common = {'model.architecture.backbone.depth=14', 'model.teacher_ckpt=a=b:c.pth'}
    assert set(run.options_for('ab', options)) == {'train_cfg.max_epochs=12', *common}
    assert set(run.options_for('icd+kd', options)) == {
        'train_cfg.max_epochs=10', 'model.distiller.embed_dims=32', *common,
    }  # fmt: skip
    assert set(run.options_for('student', options)) == {
        'train_cfg.max_epochs=10', 'model.backbone.depth=14', 'model.head.topk=(1,)',
    }  # fmt: skip


def test_options_are_merged(run: ModuleType) -> None:
    taught = run.configured(PAIR, 'icd+kd', ['model.distiller.distillers.icd.embed_dims=64', 'train_cfg.val_begin=2'])
    assert (taught.model.distiller.distillers.icd.embed_dims, taught.train_cfg.val_begin) == (64, 2)
    loss = 'model.distiller.losses.rrd.loss'
    replaced = run.configured(PAIR, 'rrd', [f'{loss}._delete_=True', f'{loss}.type=RRDLoss'])
    assert replaced.model.distiller.losses.rrd.loss == dict(type='RRDLoss')


def test_methods_that_do_not_fit_can_be_left_out(
    arguments: list[str], run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    compose = recipes.compose

    def refusing(pair: str, methods: list[str]) -> object:
        if methods == ['kd', 'icd']:
            raise SettingError('kd+icd is too wide')
        return compose(pair, methods)

    monkeypatch.setattr(recipes, 'compose', refusing)
    with pytest.raises(SettingError, match='too wide'):
        run.main(arguments)
    run.main([*arguments, '--skip-unfit'])
    assert 'left out: kd+icd is too wide' in capsys.readouterr().out
    assert {folder.name for folder in Path('runs', 'own', 'published').iterdir()} == {'student'}


def test_gpus_are_those_that_this_process_sees(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)

    def visible(gpus: str, processes: int = 1) -> list[str]:
        return [slot['CUDA_VISIBLE_DEVICES'] for slot in run.slots_for(gpus, None, processes)]

    assert visible('3,0') == ['3', '0']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '6,7,GPU-abc,1')
    assert visible('2,0') == ['GPU-abc', '6']
    assert visible('3,0,1,2', processes=2) == ['1,6', '7,GPU-abc']
    for wrong in ('4', '0,0', '0,00', 'a', '-1', '0;1', '0,'):
        with pytest.raises(SettingError, match=f'--gpus {wrong}'):
            visible(wrong)
    with pytest.raises(SettingError, match=r'--gpus 0,1,2: .* need 2 GPUs each'):
        visible('0,1,2', processes=2)


def test_cores_are_shared(run: ModuleType, tool: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool('trainings'), 'cores', lambda: 8)
    for jobs, processes, threads in ((None, 1, ['2'] * 4), (None, 2, ['1'] * 4), (2, 2, ['2'] * 2), (1, 16, ['1'])):
        assert [slot['OMP_NUM_THREADS'] for slot in run.slots_for(None, jobs, processes)] == threads


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--points', 'alpha-2'], "'alpha-2'. Did you mean alpha-1"),
        (['--methods', 'idc'], "'idc'. Did you mean icd"),
        (['--pairs', 'res20_res8'], "'res20_res8'. Did you mean res20_res8_digits"),
        (['--points', 'two', '--methods', 'student'], '--points two'),
    ],
    ids=lambda value: ' '.join(value)[:30] if isinstance(value, list) else '',
)
def test_what_a_study_does_not_have_is_refused(arguments: list[str], message: str, study: Callable) -> None:
    with pytest.raises(SettingError, match=message):
        study(*arguments)
    assert not Path('runs').exists()


@pytest.mark.usefixtures('study')
def test_gpus_must_suffice_for_all_points(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(SettingError, match=r'--gpus 0: .* need 2 GPUs each'):
        run.main(['small', '--gpus', '0', '--work-dir', 'runs'])


@pytest.mark.slow
def test_teachers_are_trained_first(
    run: ModuleType, tool: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There are no images, so the training of a teacher fails."""
    parts = tool('studies')
    point = parts.Point(('student', 'icd'), ('train_cfg.max_epochs=2',))
    small = parts.Study('', ('res20_res8_cifar10-5k',), {'published': point}, ('res20_cifar10-16k',), seeds=(0,))
    monkeypatch.setitem(parts.STUDIES, 'small', small)
    teacher, arguments = Path('work_dirs', 'res20_cifar10-16k'), ['small', '--jobs', '1']
    run.main([*arguments, '--methods', 'student'])
    assert not teacher.exists()
    with pytest.raises(UserError, match='teacher res20_cifar10-16k'):
        run.main(arguments)
    # one from elsewhere is taken, one whose training was stopped or whose checkpoint is gone is not
    (teacher / 'result.json').write_text(json.dumps(dict(accuracy=50.0, epochs=8)))
    assert run.TeacherTraining(teacher.name).result is None
    (teacher / 'epoch_8.pth').touch()
    assert run.TeacherTraining(teacher.name).result
    (teacher / 'result.json').unlink()
    assert run.TeacherTraining(teacher.name).missing
    (teacher / 'train.log').unlink()
    run.main([*arguments, '--teachers-only', '--work-dir', 'runs'])
    assert not Path('runs', 'small', 'published').exists()
    run.main(arguments)


@pytest.mark.slow
def test_every_study_can_be_composed(run: ModuleType, tool: Callable, tmp_path: Path) -> None:
    studies = tool('studies')
    # tests/test_recipes.py composes every method with every pair
    some = {'cifar100': ['--pairs', 'vgg13_mobilenetv2_cifar100']}
    for name, study in studies.STUDIES.items():
        assert {studies.teacher_of(pair) for pair in study.pairs} == {*study.teachers}
        assert all({*axis.values.values()} <= study.points.keys() for axis in study.axes.values())
        part = run.requested(run.parse_args([name, *some.get(name, [])]))
        trainings = run.students_of(part, tmp_path / name, skip_unfit=False)
        assert len({training.folder for training in trainings}) == len(trainings)
        # the first seed of everything before the second of anything
        seeds = [training.facts['seed'] for training in trainings]
        assert seeds == sorted(seeds)
