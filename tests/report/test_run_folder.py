"""Work folders as they are read, against folders written row by row."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from icd_mmrazor.errors import SettingError
from icd_mmrazor.report.run_folder import read_run

CONFIG = "model = dict(type='FrozenTeacherDistill', teacher='resnet18_8xb32_in1k')\ntrain_cfg = dict({})\n"
BY_EPOCH, BY_ITERATION = 'by_epoch=True, max_epochs=4', "type='IterBasedTrainLoop', max_iters=40"


def start(folder: Path, rows: Sequence[dict], log: str = '', train_cfg: str = BY_EPOCH) -> None:
    """Write what one start of a training leaves; each has a later name."""
    begun = folder / f'20261126_00000{len([*folder.glob("2*")])}'
    (begun / 'vis_data').mkdir(parents=True)
    (begun / 'vis_data' / 'config.py').write_text(CONFIG.format(train_cfg))
    (begun / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)))
    (begun / f'{begun.name}.log').write_text(log)


def trained(*steps: int, loss: float = 1.0) -> list[dict]:
    return [{'loss': loss, 'epoch': -(-step // 10), 'step': step} for step in steps]


def validated(*epochs: int, value: float = 50.0) -> list[dict]:
    return [{'accuracy/top1': value, 'step': epoch} for epoch in epochs]


def test_a_resumed_training_is_one(tmp_path: Path) -> None:
    # killed in epoch 3, resumed from the end of epoch 2
    start(tmp_path, trained(10, 20, 25) + validated(1, 2), '2026/11/26 10:00:00 - x\n2026/11/26 10:00:30 - x')
    ended = '2026/11/26 11:00:00 - x\nTraining ended at epoch 4/4 after 0:00:40'
    start(tmp_path, trained(25, 30, 40, loss=2.0) + validated(3, 4, value=60.0), ended)
    run = read_run(tmp_path)
    assert [(row['step'], row['loss']) for row in run.training] == [(10, 1), (20, 1), (25, 2), (30, 2), (40, 2)]
    assert [(row['step'], row['accuracy/top1']) for row in run.validations] == [(1, 50), (2, 50), (3, 60), (4, 60)]
    assert (run.reached, run.planned, run.unit, run.ended) == (4, 4, 'epoch', True)
    assert run.seconds == 70


def test_a_training_that_began_again_counts_alone(tmp_path: Path) -> None:
    start(tmp_path, trained(10, 20, 30) + validated(1, 2, 3))
    start(tmp_path, trained(10, loss=2.0))
    run = read_run(tmp_path)
    assert [row['loss'] for row in run.training] == [2.0]
    assert run.validations == []
    assert (run.reached, run.ended, run.metric) == (1, False, None)


def test_a_run_by_iterations(tmp_path: Path) -> None:
    start(tmp_path, [{'loss': 1.0, 'step': 20}, {'agreement/top1': 70.0, 'step': 20}], train_cfg=BY_ITERATION)
    run = read_run(tmp_path)
    assert (run.unit, run.planned, run.reached) == ('iteration', 40, 20)
    assert run.metric == 'agreement/top1'
    assert run.metric_at(20) == 70.0
    assert run.metric_at(10) is None


@pytest.mark.parametrize('following', ['', '\n           weights a.pth', ', accuracy/top5 99.00'])
def test_the_metric_of_the_teacher(tmp_path: Path, following: str) -> None:
    teacher = f'  teacher  A(depth=2), 3 parameters, validation set: accuracy/top1 9.40{following}'
    start(tmp_path, validated(1), f'What is being distilled:\n{teacher}\n  student  B()\n')
    run = read_run(tmp_path)
    assert run.metric_of_teacher() == 9.4
    assert run.described['student'] == ['B()']


def test_damaged_rows_are_left_out(tmp_path: Path) -> None:
    start(tmp_path, trained(10))
    (file,) = tmp_path.glob('*/vis_data/scalars.json')
    file.write_text(file.read_text() + '\n[1]\nnot json\n{"loss": 1}\n{"loss": 1, "st')
    assert len(read_run(tmp_path).training) == 1


def test_no_training(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match='no config of a training'):
        read_run(tmp_path)


def test_a_config_is_not_executed(tmp_path: Path) -> None:
    start(tmp_path, [])
    (file,) = tmp_path.glob('*/vis_data/config.py')
    file.write_text(f"{file.read_text()}\nopen('executed', 'w')\n")
    with contextlib.suppress(SettingError):
        read_run(tmp_path)
    assert not Path('executed').exists()
