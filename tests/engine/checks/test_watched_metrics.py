"""Metrics of any kind, and what watches them: save_best, a plateau, early stopping."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from given_metrics import GivenMetrics
from helpers import logged
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmengine.runner import Runner

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.errors import SettingError


class Report:
    """A result that no checkpoint can hold."""


@METRICS.register_module()
class CountedImages(BaseMetric):
    """How many images were evaluated."""

    def process(self, data_batch: Any, data_samples: list) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict:
        return {'images': len(results)}


@pytest.fixture
def train(demo_config: Callable, runner: Callable) -> Callable[..., Runner]:
    """Train a small network, with validations that give the metrics of each epoch if there are some."""

    def run_through(*metrics: dict[str, Any], **options: object) -> Runner:
        epochs = max(len(metrics), 1)
        run = runner(demo_config('res8_digits', **{'train_cfg.max_epochs': epochs, **options}))
        if metrics:
            run.register_hook(GivenMetrics(list(metrics)))
        run.train()
        return run

    return run_through


def files(run: Runner) -> list[str]:
    return sorted(file.name for file in Path(run.work_dir).glob('*.pth'))


def test_the_best_is_of_the_first_number_with_a_known_rule(train: Callable) -> None:
    others = {'matrix': torch.eye(2), 'report': Report(), 'names': ['a'], 'none': None, 'f1-score': 5.0}
    # one in a tensor is a number for mmengine's log
    run = train(*({**others, 'accuracy/top1': torch.tensor([score]), 'loss': 1.0} for score in (50.0, 40.0)))
    assert files(run) == ['best_accuracy_top1_epoch_1.pth', 'epoch_1.pth', 'epoch_2.pth']
    assert 'epoch 2/2 | network 40.00 | best 50.00 (epoch 1)' in logged(run)
    # it can be read again, without the object
    hub = read_checkpoint(Path(run.work_dir, 'epoch_2.pth'))['message_hub']['runtime_info']
    assert (hub['best_score'], 'val/report' in hub) == (50.0, False)
    assert torch.equal(hub['val/matrix'], torch.eye(2))


def test_no_best_without_such_a_number(train: Callable) -> None:
    run = train({'f1-score': 5.0, 'matrix': torch.eye(2)}, {'f1-score': 6.0})
    assert files(run) == ['epoch_1.pth', 'epoch_2.pth']
    assert logged(run).count("save_best='auto' finds no number with a known rule in f1-score, matrix") == 1


@pytest.mark.slow
def test_a_named_metric_that_a_validation_does_not_give(train: Callable) -> None:
    best = {'default_hooks.checkpoint.save_best': ['accuracy/top1', 'accuracy/top5'], 'val_evaluator.topk': (1, 5)}
    run = train({'accuracy/top1': 1.0}, {'accuracy/top1': float('nan'), 'accuracy/top5': 3}, **best)
    assert files(run)[:2] == ['best_accuracy_top1_epoch_1.pth', 'best_accuracy_top5_epoch_2.pth']


PLATEAU = dict(type='ReduceOnPlateauLR', monitor='loss')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'param_scheduler': [PLATEAU], 'train_cfg.max_epochs': 2},
            r"ReduceOnPlateauLR\): monitor='loss' is not among .* accuracy/top1",
        ),
        ({'default_hooks.checkpoint.save_best': 'auc'}, r"save_best='auc' is not among .* accuracy/top1"),
        (
            {'custom_hooks': [dict(type='EarlyStoppingHook', monitor='acc', strict=True)]},
            r"EarlyStoppingHook: monitor='acc' is not among",
        ),
        (
            {
                'custom_hooks': [dict(type='EarlyStoppingHook', monitor='confusion_matrix/result', rule='less')],
                'val_evaluator': [dict(type='ConfusionMatrix', num_classes=10)],
            },
            "monitor='confusion_matrix/result' is not a single number. Its numbers: none",
        ),
    ],
    ids=['plateau', 'save_best', 'early stopping', 'matrix'],
)
def test_what_watches_a_metric_that_is_not_there_is_refused(options: dict, message: str, train: Callable) -> None:
    with pytest.raises(SettingError, match=message) as raised:
        train(**options)
    assert 'resume' not in str(raised.value)


def test_what_only_the_first_validation_shows_leaves_its_checkpoint(
    demo_config: Callable, runner: Callable, tmp_path: Path
) -> None:
    plateau = {'param_scheduler': [{**PLATEAU, 'monitor': 'accuracy/top1', 'rule': 'greater'}]}
    options = {'train_cfg.max_epochs': 3, 'default_hooks.checkpoint.interval': 3}
    run = runner(demo_config('res8_digits', **plateau, **options))
    run.register_hook(GivenMetrics([{'f1-score': 1.0}]))
    with pytest.raises(SettingError, match=r"monitor='accuracy/top1' is not .*: f1-score.*--resume-changes list"):
        run.train()
    assert read_checkpoint(tmp_path / 'work' / 'epoch_1.pth')['meta']['epoch'] == 1


def test_what_a_training_can_do_without_is_not_refused(train: Callable) -> None:
    """Early stopping that is not strict, and a plateau: mmengine's does not look at the last validation."""
    run = train(
        param_scheduler=[PLATEAU],
        custom_hooks=[dict(type='EarlyStoppingHook', monitor='acc')],
        val_evaluator=[dict(type='Accuracy'), dict(type='CountedImages')],
    )
    assert "monitor='acc' is not among the metrics of the validation. Its numbers: accuracy/top1" in logged(run)

    # the image that was validated before training does not count
    assert run.message_hub.get_scalar('val/images').current() == 40


@pytest.mark.slow
@pytest.mark.parametrize('save_best', ['accuracy/top1', ['accuracy/top1', 'accuracy/top5']])
def test_a_run_resumed_elsewhere_publishes_what_it_has(save_best: str | list, train: Callable, tmp_path: Path) -> None:
    """Its best checkpoint lies in the other folder, and stays there, untouched."""
    settings: dict[str, Any] = {
        'default_hooks.checkpoint.save_best': save_best,
        'default_hooks.checkpoint.published_keys': ['meta', 'state_dict'],
        'val_evaluator.topk': (1, 5),
    }
    scores = [{'accuracy/top1': 5.0}, {'accuracy/top1': 4.0}]
    before = train(scores[0], work_dir=str(tmp_path / 'before'), **settings)
    there = files(before)
    assert [name.partition('-')[0] for name in there] == [
        'best_accuracy_top1_epoch_1',
        'best_accuracy_top1_epoch_1.pth',
        'epoch_1',
        'epoch_1.pth',
    ]
    checkpoint = str(tmp_path / 'before' / 'epoch_1.pth')
    changed = {'default_hooks.sanity_check.resume_changes': 'list', 'resume': True, 'load_from': checkpoint}
    run = train(*scores, work_dir=str(tmp_path / 'after'), **settings, **changed)
    assert [name.partition('-')[0] for name in files(run)] == ['epoch_2', 'epoch_2.pth']
    assert files(before) == there
    assert 'accuracy/top1 4.00 (epoch 2), best 5.00 (epoch 1)' in logged(run)
