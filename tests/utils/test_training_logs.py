"""What is read of a training's logs and config, sound or not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CONFIGS
from mmengine.config import Config

from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.training_logs import (
    read_cfg_options,
    read_log,
    read_setting,
    read_settings,
    read_teacher_metrics,
    read_training,
)


@pytest.fixture
def log_of(tmp_path: Path) -> Callable[..., Path]:
    """Write the lines of one start of a training; return its work folder."""

    def write(*lines: object, start: str = '20260101_000000') -> Path:
        file = tmp_path / start / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(''.join(line if isinstance(line, str) else json.dumps(line) + '\n' for line in lines))
        return tmp_path

    return write


def validated(step: int, accuracy: float) -> dict:
    return {'accuracy/top1': accuracy, 'data_time': 0.01, 'step': step}


def test_a_resumed_training_is_one(log_of: Callable) -> None:
    trained = {'lr': 0.05, 'loss': 1.0, 'epoch': 1, 'iter': 2, 'step': 2}
    log_of(trained, validated(1, 10.0), trained, validated(2, 20.0), validated(3, 30.0))
    folder = log_of(validated(3, 33.0), validated(4, 40.0), start='20260102_000000')
    log = read_log(folder)
    assert log.accuracies == {1: 10.0, 2: 20.0, 3: 33.0, 4: 40.0}
    assert (log.epoch, log.problems) == (4, [])
    # one that begins anew in the same folder does not inherit the end
    log_of(validated(1, 11.0), start='20260103_000000')
    assert read_log(folder).accuracies == {1: 11.0}
    assert read_log(folder / 'nothing').epoch == 0


@pytest.mark.parametrize(
    'line',
    [
        '{"accuracy/top1": 30.0, "st',
        'garbage\n',
        '\x00\xff\n',
        '[' * 100_000 + '\n',
        '7\n',
        '{"accuracy/top1": 30.0}\n',
        *(validated(3, accuracy) for accuracy in (float('nan'), float('inf'), 10**400, -1, 100.5, None, True, '30')),
        *(validated(step, 30.0) for step in (None, 0, 3.0, '3', [3])),
    ],
    ids=lambda line: str(line)[:30],
)
def test_a_broken_line_is_named(line: object, log_of: Callable) -> None:
    log = read_log(log_of(validated(1, 10.0), validated(2, 20.0), line))
    assert log.accuracies == {1: 10.0, 2: 20.0}
    assert len(log.problems) == 1
    assert '1 of 3 lines' in log.problems[0]


def test_a_later_nan_is_not_hidden_by_an_earlier_number(log_of: Callable) -> None:
    log_of(validated(1, 10.0), validated(2, 20.0))
    log = read_log(log_of(validated(2, float('nan')), start='20260102_000000'))
    assert log.accuracies == {1: 10.0}


def test_broken_files_are_named(log_of: Callable, tmp_path: Path) -> None:
    log_of()
    (tmp_path / '20260102_000000' / 'vis_data' / 'scalars.json').mkdir(parents=True)
    empty, folder = read_log(tmp_path).problems
    assert 'empty' in empty
    assert 'cannot be read' in folder


def test_a_config_is_read_and_not_run(tmp_path: Path) -> None:
    config = tmp_path / '20260102_000000' / 'vis_data' / 'config.py'
    config.parent.mkdir(parents=True)
    touched = tmp_path / 'touched'
    config.write_text(
        f'open({str(touched)!r}, "w").close()\n'
        'custom_imports = dict(imports=[\n    "icd_mmrazor",\n])\n'
        'other_train_cfg = dict(max_epochs=1)\n'
        'randomness = dict(deterministic=True, diff_rank_seed=1, seed=3)\n'
        'train_cfg = dict(\n    by_epoch=True, dynamic_intervals=[\n        (180, 2),\n    ], max_epochs=240)\n'
        'val_cfg = dict(val_interval=9)\n'
    )
    assert read_setting(tmp_path, 'train_cfg', 'max_epochs') == 240
    assert read_setting(tmp_path, 'randomness', 'seed') == 3
    # of another section, of none
    assert read_setting(tmp_path, 'train_cfg', 'val_interval') is None
    assert read_setting(tmp_path, 'absent', 'max_epochs') is None
    assert not touched.exists()
    # the last start counts, unless its config says nothing
    for start, text in (('20260101_000000', '100)'), ('20260103_000000', '300)'), ('20260104_000000', '')):
        (tmp_path / start / 'vis_data').mkdir(parents=True)
        (tmp_path / start / 'vis_data' / 'config.py').write_text(f'train_cfg = dict(max_epochs={text}')
    assert read_setting(tmp_path, 'train_cfg', 'max_epochs') == 300


def test_the_dump_of_mmengine_is_read(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'demo' / 'icd_res20_res8_digits.py')
    cfg.merge_from_dict({'train_cfg.dynamic_intervals': [(30, 1)], 'randomness.seed': 5})
    cfg.dump(tmp_path / 'any_name.py')
    assert read_setting(tmp_path, 'train_cfg', 'max_epochs') == cfg.train_cfg.max_epochs
    assert read_setting(tmp_path, 'randomness', 'seed') == 5
    # not set
    cfg.randomness.seed = None
    cfg.dump(tmp_path / 'any_name.py')
    assert read_setting(tmp_path, 'randomness', 'seed') is None


def test_a_validation_with_other_metrics_is_named(log_of: Callable) -> None:
    times = {'data_time': 0.1, 'time': 0.2, 'step': 2}
    trained = {'lr': 0.05, 'loss': 1.0, 'epoch': 2, 'data_time': 0.1, 'time': 0.2, 'step': 4}
    hook = {'distillation/rank': 3.0, 'step': 2}
    log = read_log(log_of(validated(1, 10.0), trained, hook, {'single-label/f1-score': 9.0, 'x': 1.0, **times}))
    assert log.accuracies == {1: 10.0}
    assert log.other_metrics == {2: ['single-label/f1-score', 'x']}
    assert log.problems == []


def test_settings_are_found_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / 'config.py').write_text(
        'model = dict(\n    distiller=dict(\n        distillers=dict(\n            ab=dict(initial_epochs=30),\n'
        '            own=dict(initial_epochs=0), s="not_initial_epochs=7")),\n    random_teacher=True)\n'
        'train_cfg = dict(initial_epochs=5)\n'
    )
    assert read_settings(tmp_path, 'model', 'initial_epochs') == [30, 0]
    assert read_settings(tmp_path, 'model', 'random_teacher') == [True]
    assert read_settings(tmp_path, 'model', 'student_trainable') == []


@pytest.mark.parametrize(
    ('text', 'options'),
    [
        ('{"cfg_options": [], "model": {}}', []),
        (
            json.dumps({'a': {'b': [1]}, 'cfg_options': ['a=1', 'b="x", [\\"y\\"]'], 'c': 2}),
            ['a=1', 'b="x", [\\"y\\"]'],
        ),
        ('{"model": {}}', None),
        ('{"cfg_options": ["a=1", ', None),
        ('{"cfg_options": [["a=1"]]}', None),
        ('[' * 100_000, None),
        ('', None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_options_are_read_from_the_record(text: str, options: list[str] | None, tmp_path: Path) -> None:
    assert read_cfg_options(tmp_path) == []
    (tmp_path / 'trial.json').write_text(text)
    assert read_cfg_options(tmp_path) == options


def trained(iteration: int, epoch: int | None, **numbers: float) -> dict:
    place = {} if epoch is None else {'epoch': epoch}
    return {**numbers, 'data_time': 0.1, 'time': 0.2, **place, 'iter': iteration, 'step': iteration}


def test_the_numbers_of_a_training(log_of: Callable) -> None:
    log_of(
        trained(100, 1, loss=4.0, lr=0.1),
        trained(250, 2, loss=3.0, lr=0.1),
        validated(2, 20.0),
        trained(350, 3, loss=2.0),
    )
    # resumed after epoch 2, of 150 iterations as far as the lines tell
    more = {'accuracy/top1': 30.0, 'accuracy/top5': 60.0, 'text': 'a', 'data_time': 0.1, 'time': 0.2, 'step': 3}
    folder = log_of(trained(300, 2, loss=2.5), trained(450, 3, loss=1.5, x=7), more, start='20260102_000000')
    log = read_log(folder)
    assert {iteration: numbers['loss'] for iteration, numbers in log.training.items()} == {
        100: 4,
        250: 3,
        300: 2.5,
        450: 1.5,
    }
    assert log.training[450] == {'loss': 1.5, 'x': 7.0, 'epoch': 3.0}
    assert log.validations == {2: {'accuracy/top1': 20.0}, 3: {'accuracy/top1': 30.0, 'accuracy/top5': 60.0}}
    assert (log.iterations_per_epoch, log.counts_epochs, log.problems) == (150, True, [])


def test_a_training_that_counts_iterations(log_of: Callable) -> None:
    """The step of a validation is 0 there unless LoggerHook is told otherwise."""
    lines = [trained(100, None, loss=4.0), validated(0, 20.0), trained(200, None, loss=3.0), validated(200, 30.0)]
    log = read_log(log_of(*lines))
    assert log.accuracies == {100: 20.0, 200: 30.0}
    assert (list(log.training), log.iterations_per_epoch, log.counts_epochs) == ([100, 200], 1, False)
    for broken in (
        trained(0, None, loss=1.0),
        trained('3', None, loss=1.0),
        trained(10**400, None, loss=1.0),
        trained(3, 0),
        trained(300, 1, loss=10**400),
    ):
        assert len(read_log(log_of(*lines, broken)).problems) == 1


def test_what_there_is_instead_of_a_training_is_told(log_of: Callable, tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(SettingError) as error:
            read_training(folder)
        return str(error.value)

    assert 'does not exist' in refused(tmp_path / 'absent')
    assert 'it holds nothing' in refused(tmp_path)
    (tmp_path / 'epoch_1.pth').touch()
    assert 'is a file' in refused(tmp_path / 'epoch_1.pth')
    assert 'it holds epoch_1.pth. Expected is' in refused(tmp_path)
    log_of(start='seed_0/20260101_000000')
    assert f'There are trainings below it; name these: {tmp_path / "seed_0"}.' in refused(tmp_path)
    assert 'scalars.json is empty' in refused(tmp_path / 'seed_0')
    log_of(trained(1, 1, loss=1.0), start='seed_0/20260101_000000')
    assert read_training(tmp_path / 'seed_0').training == {1: {'loss': 1.0, 'epoch': 1.0}}


def test_the_teachers_metrics_are_found_in_the_log(tmp_path: Path) -> None:
    report = (
        'What is being distilled:\n  teacher  CIFARResNet(depth=20), 272,474 parameters{}\n'
        '           weights a, validation set: accuracy/top1 1.00\n'
    )
    for start, text in (
        ('1', report.format(', validation set: accuracy/top1 99.40, accuracy/top5 100.00')),
        ('2', report.format(', validation set: accuracy/top1 98.00, single-label/f1-score -1.50')),
        ('3', report.format('')),
    ):
        (tmp_path / start).mkdir()
        (tmp_path / start / f'{start}.log').write_text(text)
    assert read_teacher_metrics(tmp_path) == {'accuracy/top1': 98.0, 'single-label/f1-score': -1.5}
    assert read_teacher_metrics(tmp_path / '1') == {}
