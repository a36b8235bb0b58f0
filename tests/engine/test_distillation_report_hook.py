"""The lines and the summary of a run, against scripted metrics and a scripted clock."""

import json
import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers import CHANGED, ROOT, exit_status
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS

from icd_mmrazor.engine.hooks import distillation_report_hook

TRAINING, VALIDATION = 10, 30


@METRICS.register_module()
class ScriptedMetric(BaseMetric):
    """Return the values of the metric ``score`` one after the other, after another metric."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = list(values)

    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, object]:
        return {'per_class': [1.0, 2.0], 'loss': 0.5, 'score': self.values.pop(0)}


class Clock(Hook):
    """Seconds that pass by iterations alone."""

    def __init__(self) -> None:
        self.now = 1000.0

    def after_train_iter(self, *args: object, **kwargs: object) -> None:
        self.now += TRAINING

    def after_val_iter(self, *args: object, **kwargs: object) -> None:
        self.now += VALIDATION


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(distillation_report_hook, 'monotonic', lambda: clock.now)
    return clock


@pytest.fixture
def scripted(demo_config: Callable) -> Callable[..., Config]:
    """Four iterations an epoch, the third one logged; a validation of one batch after every second epoch."""

    def config(name: str, values: list[float], **options: object) -> Config:
        settings = {
            'train_cfg.max_epochs': 4,
            'train_cfg.val_interval': 2,
            'train_dataloader.batch_size': 16,
            'default_hooks.logger.interval': 3,
            'default_hooks.checkpoint.save_best': 'score',
            'default_hooks.checkpoint.rule': 'greater',
        }
        cfg = demo_config(name, **{**settings, **options})
        cfg.val_evaluator = dict(type='ScriptedMetric', values=values)
        return cfg

    return config


def latest_log(cfg: Config) -> str:
    """Return the log of the latest run; runs that start within one second share a file."""
    log = max(Path(cfg.work_dir).glob('*/*.log'), key=lambda file: file.stat().st_mtime_ns).read_text()
    return log.rpartition('System environment:')[2]


def lines(cfg: Config) -> list[str]:
    """Return the hook's lines of the latest run, with the first one of the summary."""
    return re.findall(r' - INFO - ((?:epoch|iteration) [\d.]+/.*|Training ended .*|Nothing was .*)', latest_log(cfg))


def summary(cfg: Config) -> dict[str, str]:
    """Return the other lines of the latest summary by their names."""
    _, _, rows = latest_log(cfg).rpartition(' - INFO - ')
    return dict(row.split(maxsplit=1) for row in rows.splitlines()[1:])


@pytest.mark.slow
def test_lines_of_a_distillation(scripted: Callable, runner: Callable, clock: Clock) -> None:
    # the first value is the teacher's
    cfg = scripted('icd_res20_res8_digits', [90.0, 50.0, 40.0])
    run = runner(cfg)
    run.register_hook(clock)
    run.train()
    assert lines(cfg) == [
        # two epochs of 40 s, a validation of 30 s
        'epoch 2/4 | student 50.00 | best 50.00 (epoch 2) | teacher 90.00 | 0:01:50 left',
        'epoch 4/4 | student 40.00 | best 50.00 (epoch 2) | teacher 90.00',
        'Training ended at epoch 4/4 after 0:03:40.',
    ]
    assert summary(cfg)['student'] == 'score 40.00 (epoch 4), best 50.00 (epoch 2)'
    assert summary(cfg)['teacher'] == '90.00, 50.00 above the student'
    assert run.message_hub.get_info('teacher_metrics')['score'] == 90.0

    # resumed: the pace of this start, the best of the one before; the validation of epoch 4 is not in its checkpoint
    options = {'resume': True, 'train_cfg.max_epochs': 8, **CHANGED}
    cfg = scripted('icd_res20_res8_digits', [90.0, 40.0, 45.0, 95.5], **options)
    run = runner(cfg)
    run.register_hook(clock)
    run.train()
    assert lines(cfg) == [
        'epoch 4/8 | student 40.00 | best 50.00 (epoch 2) | teacher 90.00',
        'epoch 6/8 | student 45.00 | best 50.00 (epoch 2) | teacher 90.00 | 0:01:50 left',
        'epoch 8/8 | student 95.50 | best 95.50 (epoch 8) | teacher 90.00',
        'Training ended at epoch 8/8 after 0:03:40 (resumed at epoch 4).',
    ]
    assert summary(cfg)['teacher'] == '90.00, 5.50 below the student'

    # resumed once more, with nothing to do and no validation
    cfg = scripted('icd_res20_res8_digits', [90.0], resume=True, **{'train_cfg.max_epochs': 8}, **CHANGED)
    runner(cfg).train()
    assert lines(cfg) == ['Nothing was left to train: epoch 8/8 had been reached before.']
    assert summary(cfg)['student'] == 'best 95.50 (epoch 8)'


@pytest.mark.slow
def test_lines_of_a_training_by_iterations(scripted: Callable, runner: Callable, clock: Clock) -> None:
    """Of a plain network, without a best checkpoint: the first number is shown."""
    options = {'default_hooks.checkpoint.save_best': None, 'default_hooks.logger.interval': 4}
    cfg = scripted('res8_digits', [1.0, 1.0], **options)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=9, val_interval=6)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=100)
    cfg.log_processor = dict(by_epoch=False)
    run = runner(cfg)
    run.register_hook(clock)
    run.train()
    assert lines(cfg) == [
        'iteration 6/9 | network 0.5000 | 0:00:45 left',
        'iteration 9/9 | network 0.5000',
        'Training ended at iteration 9/9 after 0:02:30.',
    ]
    assert summary(cfg)['network'] == 'loss 0.5000 (iteration 9)'
    assert 'teacher' not in summary(cfg)


VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=32),
    img_size=24,
    patch_size=8,
    data_preprocessor=dict(mean=[100.0] * 3, std=[50.0] * 3),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('teacher', 'said', 'images'),
    [
        (
            VIT,
            'not evaluated: it has no classifier',
            'mean [100.0, 100.0, 100.0], std [50.0, 50.0, 50.0], 24 x 24 pixels',
        ),
        ('seven classes', 'not evaluated: it has 7 classes, the student 10', "the student's"),
    ],
)
def test_a_teacher_that_the_validation_set_says_nothing_of(
    teacher: Any, said: str, images: str, demo_config: Callable, runner: Callable, network: Callable
) -> None:
    cfg = demo_config()
    cfg.model.teacher = network('res20', 7) if isinstance(teacher, str) else dict(teacher)
    cfg.model.update(teacher_ckpt=None, random_teacher=True)
    runner(cfg).train()
    log = latest_log(cfg)
    assert said in log
    assert f'images  {images}' in log
    assert re.search(r'images  mean \[78\.0', log)
    assert 'teacher' not in summary(cfg)


class Interruption(Hook):
    def before_train_epoch(self, runner: object) -> None:
        if runner.epoch == 1:
            raise KeyboardInterrupt


def test_an_interrupted_training_has_not_ended(scripted: Callable, runner: Callable) -> None:
    cfg = scripted('res8_digits', [50.0], **{'train_cfg.val_interval': 1})
    run = runner(cfg)
    run.register_hook(Interruption())
    with pytest.raises(KeyboardInterrupt):
        run.train()
    (line,) = lines(cfg)
    assert line.startswith('epoch 1/4 | network 50.00 | best 50.00 (epoch 1) | ')


@pytest.mark.slow
def test_the_summary_names_what_is_there(demo_config: Callable, runner: Callable, tmp_path: Path) -> None:
    cfg = demo_config()
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    if find_spec('tensorboard'):
        cfg.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))
    runner(cfg).train()
    rows, folder = summary(cfg), Path(cfg.work_dir)
    assert [(folder / file).is_file() for file in rows['exported'].split(', ')] == [True] * 3
    log = latest_log(cfg)
    assert 'Exp name' not in log
    assert 'FileClient' not in log
    # the command gives the accuracy that was validated
    _, tool, *arguments = shlex.split(rows['test'])
    assert (ROOT / tool).resolve() == ROOT / 'tools' / 'test.py'
    assert not exit_status(ROOT / tool, *arguments, '--out', tmp_path / 'metrics.json')
    accuracy = json.loads((tmp_path / 'metrics.json').read_text())['accuracy/top1']
    assert rows['student'] == f'accuracy/top1 {accuracy:.2f} (epoch 1), best {accuracy:.2f} (epoch 1)'
    if find_spec('tensorboard'):
        check_tensorboard(next(folder.glob('*/vis_data')))


@pytest.mark.slow
def test_the_summary_names_students_in_another_folder(demo_config: Callable, runner: Callable, tmp_path: Path) -> None:
    cfg = demo_config(**{'default_hooks.checkpoint.out_dir': str(tmp_path / 'checkpoints')})
    runner(cfg).train()
    assert summary(cfg)['exported'] == 'student_last.pth, student_best.pth, student.py'


def check_tensorboard(folder: Path) -> None:
    """Compare with the file that our tools read."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    logged = {}
    for line in (folder / 'scalars.json').read_text().splitlines():
        logged |= json.loads(line)
    for name in ('loss', 'distill.loss_icd', 'distill.icd_tau', 'accuracy/top1', 'lr'):
        (event,) = events.Scalars(name)
        assert event.value == pytest.approx(logged[name], rel=1e-5), name
