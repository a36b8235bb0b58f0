"""The figures that are drawn from logs: training curves, and accuracy against cost."""

import csv
import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CONFIGS, TOOLS
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.training_logs import read_teacher_metrics

RES8, RES20 = 78_042, 272_474


@pytest.fixture(scope='module')
def training() -> dict:
    return runpy.run_path(str(TOOLS / 'analysis' / 'plot_training.py'))


@pytest.fixture(scope='module')
def tradeoff() -> dict:
    return runpy.run_path(str(TOOLS / 'analysis' / 'plot_tradeoff.py'))


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Write what a training leaves; return its folder."""

    def write(
        name: str,
        accuracies: list[float],
        lines: int = 2,
        teacher: float | None = None,
        epochs: bool = True,
        **loss: float,
    ) -> Path:
        start = tmp_path / name / '20260101_000000'
        (start / 'vis_data').mkdir(parents=True)
        if teacher is not None:
            report = (
                f'  teacher  CIFARResNet(depth=20), 272,474 parameters, validation set: accuracy/top1 {teacher:.2f}\n'
            )
            (start / 'a.log').write_text(report)
        config = 'icd_res20_res8_digits' if teacher is not None else 'res8_digits'
        Config.fromfile(CONFIGS / 'demo' / f'{config}.py').dump(start / 'vis_data' / 'config.py')
        log = []
        for epoch, accuracy in enumerate(accuracies, start=1):
            for line in range(1, lines + 1):
                iteration = (epoch - 1) * lines + line
                place = {**({'epoch': epoch} if epochs else {}), 'iter': iteration, 'step': iteration}
                log.append({'lr': 0.1**epoch, 'loss': float(iteration), **loss, **place})
            log.append({'accuracy/top1': accuracy, 'data_time': 0.1, 'time': 0.2, 'step': epoch})
        (start / 'vis_data' / 'scalars.json').write_text(''.join(json.dumps(values) + '\n' for values in log))
        return tmp_path / name

    return write


def texts(svg: Path) -> list[str]:
    """Return what a figure says: its letters are shapes, each line a comment before them."""
    lines = map(str.strip, svg.read_text().splitlines())
    return [line.removeprefix('<!-- ').removesuffix(' -->') for line in lines if line.startswith('<!-- ')]


def test_a_real_distillation(
    training: dict,
    tradeoff: dict,
    demo_config: Callable,
    runner: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    cfg = demo_config('icd-kd_res20_res8_digits')
    run = runner(cfg)
    run.train()
    (teacher,) = read_teacher_metrics(Path(cfg.work_dir)).values()
    assert teacher == pytest.approx(run.message_hub.get_info('teacher_metrics')['accuracy/top1'], abs=0.005)
    training['main']([cfg.work_dir, '--out', str(tmp_path / 'training.png')])
    said = texts(tmp_path / 'training.svg')
    titles = [
        'loss',
        'student.loss',
        'distill.loss_icd',
        'distill.loss_kd',
        'distill.icd_tau',
        'learning rate',
        'epoch',
    ]
    assert {*titles, 'validation accuracy (%)', f'teacher ({teacher:.2f})'} <= {*said}
    capsys.readouterr()
    tradeoff['main']([cfg.work_dir, '--out', str(tmp_path / 'a.png'), '--csv', str(tmp_path / 'a.csv')])
    with (tmp_path / 'a.csv').open(newline='') as file:
        student, taught_by = csv.DictReader(file)
    assert (student['network'], student['epoch'], student['parameters']) == ('work', '1', str(RES8))
    # the crop of the training says the size of the images
    assert (student['height'], student['width'], student['std']) == ('16', '16', '')
    assert (taught_by['role'], taught_by['parameters'], float(taught_by['accuracy'])) == (
        'teacher',
        str(RES20),
        teacher,
    )
    network = MODELS.build(cfg.model.architecture)
    assert int(student['parameters']) == sum(weight.numel() for weight in network.parameters())
    assert f'{RES20:,}' in capsys.readouterr().out


def test_the_curves(training: dict, write_run: Callable) -> None:
    short, long = write_run('a', [10.0, 20.0]), write_run('b', [30.0, 40.0, 50.0, 60.0], lines=125)
    runs = training['read_runs']([short, long], None, 'accuracy/top1')
    assert [run.label for run in runs] == ['a', 'b']
    assert runs[0].curve('loss') == [(0.5, 1.0), (1.0, 2.0), (1.5, 3.0), (2.0, 4.0)]
    assert runs[0].metric('accuracy/top1') == [(1, 10.0), (2, 20.0)]
    # 500 lines make means of 3, and at last of 2
    curve = runs[1].curve('loss')
    assert (len(curve), runs[1].lines_a_point) == (167, 3)
    assert curve[0] == pytest.approx((2 / 125, 2.0))
    assert curve[-1] == pytest.approx((499.5 / 125, 499.5))


def test_the_figure_of_several_trainings(training: dict, write_run: Callable, capsys: pytest.CaptureFixture) -> None:
    folders = [
        write_run(r'$\a$/seed_0', [10.0, 30.0, 20.0], teacher=99.4),
        write_run('b/seed_0', [40.0] * 16, icd_tau=3.0),
    ]
    out = folders[0].parents[1] / 'training.png'
    training['main']([*map(str, folders), '--out', str(out)])
    said = texts(out.with_suffix('.svg'))
    assert {r'$\a$ (20.00)', 'b (40.00)', 'teacher (99.40)', 'icd_tau', 'validation accuracy (%)'} <= {*said}
    # 4 of the 16 epochs are too few for a panel of their own
    assert not any('last quarter' in text for text in said)
    printed = capsys.readouterr().out
    assert '$\\a$: 20.00 after epoch 3, highest 30.00 after epoch 2; teacher 99.40' in printed
    assert str(out) in printed
    training['main']([str(folders[1]), '--labels', 'mine', '--out', str(out)])
    assert 'mine (40.00)' in texts(out.with_suffix('.svg'))


def test_a_metric_that_is_called_as_a_loss(training: dict, write_run: Callable) -> None:
    folder = write_run('a', [10.0])
    (log,) = folder.glob('*/vis_data/scalars.json')
    log.write_text(log.read_text().replace('accuracy/top1', 'loss'))
    figure = training['draw'](training['read_runs']([folder], None, 'loss'), 'loss')
    assert [panel.get_title() for panel in figure.axes if panel.get_visible()] == [
        'validation loss',
        'loss',
        'learning rate',
    ]


def test_seeds_are_one_point(tradeoff: dict, write_run: Callable) -> None:
    seeds = [write_run(f'icd/seed_{seed}', [1.0, accuracy], teacher=99.0) for seed, accuracy in enumerate((90.0, 92.0))]
    other = write_run('kd', [1.0, 80.0], teacher=98.0)
    points = tradeoff['points_of']([*seeds, other], None, 'accuracy/top1', (16, 16))
    assert [(point.name, point.accuracy) for point in points] == [
        ('icd', '91.00 ± 1.41'), ('kd', '80.00'), ('teacher of icd', '99.00'), ('teacher of kd', '98.00'),
    ]  # fmt: skip
    # twice the side, four times the work of the convolutions
    (large, _) = tradeoff['points_of']([other], ['kd'], 'accuracy/top1', (32, 32))
    classifier = 64 * 10
    assert large.cost.multiply_adds - classifier == 4 * (points[0].cost.multiply_adds - classifier)
    assert large.cost.parameters == RES8
    out = other.parent / 'tradeoff.svg'
    tradeoff['main']([*map(str, seeds), str(other), '--out', str(out), '--labels', r'$\x$', 'y'])
    said = texts(out)
    assert {r'$\x$ (91.00 ± 1.41)', 'y (80.00)', 'parameters', 'multiply-adds for an image of 16 x 16'} <= {*said}
    seeds.append(write_run('icd/seed_2', [1.0, 90.0, 93.0]))
    with pytest.raises(SettingError, match=r'icd: the seeds are not equally far \(seed_0: 2, seed_1: 2, seed_2: 3\)'):
        tradeoff['points_of'](seeds, None, 'accuracy/top1', None)
    # a file that only a stored config names is not run
    config = next(other.glob('*/vis_data/config.py'))
    cfg = Config.fromfile(config)
    for name, message in (
        (str(other / 'teacher.py'), r'kd/teacher\.py.* names a file'),
        (dict(type='Mine'), 'not run'),
    ):
        cfg.model.teacher = name
        cfg.dump(config)
        with pytest.raises(SettingError, match=message):
            tradeoff['points_of']([other], None, 'accuracy/top1', None)


def test_bad_arguments_are_messages(training: dict, tradeoff: dict, write_run: Callable, tmp_path: Path) -> None:
    folder = write_run('a', [10.0])
    arguments = [str(folder), '--out', str(tmp_path / 'x.png')]
    for tool in (training['main'], tradeoff['main']):
        with pytest.raises(SettingError, match='has no log: it holds a/'):
            tool([str(tmp_path), '--out', str(tmp_path / 'x.png')])
        with pytest.raises(SettingError, match=r'--labels: 2 names for 1'):
            tool([*arguments, '--labels', 'a', 'b'])
        with pytest.raises(SettingError, match=r'f1.*accuracy/top1'):
            tool([*arguments, '--metric', 'f1'])
        with pytest.raises(SettingError, match=r'name a file that ends in \.png'):
            tool([str(folder), '--out', 'x.gif'])
        with pytest.raises(SettingError, match='two are the same'):
            tool([str(folder), *arguments])
    with pytest.raises(SettingError, match='do not count the same'):
        training['main']([str(write_run('b', [10.0], epochs=False)), *arguments])
    (log,) = write_run('c', [10.0]).glob('*/vis_data/scalars.json')
    log.write_text('{"iter": 1, "epoch": 1}')
    with pytest.raises(SettingError, match='the logs of c have no losses and no metrics'):
        training['main']([str(tmp_path / 'c'), '--out', str(tmp_path / 'x.png')])
    with pytest.raises(SettingError, match=r'--input-size 0 3: give two numbers of pixels'):
        tradeoff['main']([*arguments, '--input-size', '0', '3'])
    (tmp_path / 'a.csv').touch()
    with pytest.raises(SettingError, match=r'--csv .* exists'):
        tradeoff['main']([*arguments, '--csv', str(tmp_path / 'a.csv')])
    config = folder / '20260101_000000' / 'vis_data' / 'config.py'
    config.write_text(config.read_text().replace('crop_size=16', 'crop_size=(16, 12)'))
    with pytest.raises(SettingError, match=r"does not say the images' size.*--input-size HEIGHT WIDTH"):
        tradeoff['main'](arguments)
    config.unlink()
    with pytest.raises(SettingError, match='has no config'):
        tradeoff['main'](arguments)
    assert not list(tmp_path.glob('x.*'))
