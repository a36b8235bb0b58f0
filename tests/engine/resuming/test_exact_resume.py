"""Runs that are stopped somewhere and resumed, against runs that were not stopped: equal bit for bit."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import given_metrics  # noqa: F401 (registers)
import pytest
from helpers import CONFIGS, distiller, logged
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from same_checkpoints import differences

from icd_mmrazor import recipes
from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.engine.resuming import DueValidation

MIXUP = dict(type='ClsDataPreprocessor', num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)))
PACK = dict(type='PackInputs')
ERASING = dict(type='RandomErasing', erase_prob=0.5, mode='rand')


class StoppedError(Exception):
    """The run was ended from outside."""


class Stop(Hook):
    """End a run in an iteration, counted from 0, before it is trained; or in the validation after so many."""

    priority = 'LOWEST'

    def __init__(self, iteration: int | None, in_validation: bool) -> None:
        self.iteration, self.in_validation = iteration, in_validation
        self.validated_at: list[int] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.iteration and not self.in_validation:
            raise StoppedError

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.validated_at.append(runner.iter)
        if runner.iter == self.iteration and self.in_validation:
            raise StoppedError


@pytest.fixture
def config(demo_config: Callable) -> Callable[..., Config]:
    """Two epochs of three batches of 24, 24 and 16 images; a learning rate that matters, and changes."""

    def make(*methods: str, **options: object) -> Config:
        cfg = demo_config('icd_res20_res8_digits' if methods else 'res8_digits')
        if methods:
            cfg.model.distiller = distiller(*methods)
        cfg.train_dataloader.dataset.indices = None
        cfg.param_scheduler = dict(type='CosineAnnealingLR', T_max=6, by_epoch=False)
        for hook in ('export_student', 'distillation_report'):
            cfg.default_hooks.pop(hook)
        cfg.merge_from_dict({'train_cfg.max_epochs': 2, 'train_dataloader.batch_size': 24, **options})
        return cfg

    return make


@pytest.fixture
def trained(runner: Callable, tmp_path: Path) -> Callable[..., tuple[Path, Runner]]:
    """Train a config in its own folder, stopped at the given places; return its last checkpoint and the run."""
    count = iter(range(100))

    def train(cfg: Config, *stops: int, in_validation: bool = False, **resumed: object) -> tuple[Path, Runner]:
        cfg = Config(cfg.to_dict())
        cfg.work_dir = str(tmp_path / f'run_{next(count)}')
        for stop in (*stops, None):
            run = runner(cfg)
            run.stop = Stop(stop, in_validation)
            run.register_hook(run.stop)
            if stop is None:
                run.train()
            else:
                with pytest.raises(StoppedError):
                    run.train()
                # workers that are left to the garbage collector take 5 seconds each
                run.train_loop.dataloader.numbered.undo()
            cfg.merge_from_dict({'resume': True, **resumed})
        return Path((Path(cfg.work_dir) / 'last_checkpoint').read_text()), run

    return train


def given(*accuracies: float) -> dict:
    return dict(type='GivenMetrics', metrics=[{'accuracy/top1': accuracy} for accuracy in accuracies])


@pytest.mark.slow
def test_whole_batches_memories_and_averages(config: Callable, trained: Callable) -> None:
    """Stopped in an epoch, which starts again, and in the last validation, which comes first after the resume."""
    cfg = config('icd', 'crd', 'rrd', custom_hooks=[dict(type='EMAHook')])
    whole, _ = trained(cfg)
    resumed, _ = trained(cfg, 4)
    assert differences(whole, resumed) == []
    resumed, run = trained(cfg, 6, in_validation=True)
    assert run.stop.validated_at == [6]
    assert differences(whole, resumed) == []
    assert [file.name for file in resumed.parent.glob('best_*')] == [file.name for file in whole.parent.glob('best_*')]


@pytest.mark.slow
def test_a_student_with_its_teachers_classifier(config: Callable, trained: Callable) -> None:
    cfg = config('simkd', 'icd', custom_hooks=[dict(type='EMAHook')])
    whole, run = trained(cfg)
    assert type(run.model.architecture).__name__ == 'ProjectedClassifier'
    resumed, _ = trained(cfg, 4)
    assert differences(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize('augment', ['CutMix', 'BatchAutoAugment'])
def test_a_second_batch(augment: str, config: Callable, trained: Callable) -> None:
    """Stopped within an epoch; the batch norms of the pruned teacher have other statistics than before."""
    cfg = config('r2kd', 'icd', **{'default_hooks.checkpoint.by_epoch': False})
    cfg.merge_from_dict(recipes.settings_of(['r2kd']))
    cfg.model.augment = dict(type=augment, **(dict(alpha=1.0) if augment == 'CutMix' else {}))
    cfg.model.pruned_teacher.norm_eval = False
    whole, _ = trained(cfg)
    resumed, _ = trained(cfg, 2, 4)
    assert differences(whole, resumed) == []


@pytest.mark.slow
def test_several_teachers(config: Callable, trained: Callable, network: Callable, teacher_file: Callable) -> None:
    """Each with its own classifier and normalisation; their combined logits are compared, and a feature of each."""
    cfg = config('icd')
    del cfg.model.teacher, cfg.model.teacher_ckpt
    other = dict(network('res14'), data_preprocessor=dict(type='ClsDataPreprocessor', mean=[30.0] * 3, std=[40.0] * 3))
    cfg.model.teachers = [
        dict(teacher=network('res8'), teacher_ckpt=teacher_file('res8'), weight=2.0),
        dict(teacher=other, teacher_ckpt=teacher_file('res14'), teacher_precision='bf16-true'),
    ]
    cfg.model.teacher_offload = 'blocks'
    cfg.model.distiller = dict(
        type='MixedDistiller',
        distillers=dict(
            first=dict(type='ICDDistiller', teacher_member=0, kd=None),
            second=dict(type='ICDDistiller', teacher_member=1),
            kd=dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence'), features='logits'))),
        ),
    )
    whole, run = trained(cfg)
    views = [view.extra_repr() for view in run.model.teacher.views]
    assert views[0] != views[1]
    resumed, _ = trained(cfg, 4)
    assert differences(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize('in_memory', [True, False])
def test_batches_of_images_with_and_without_labels(in_memory: bool, config: Callable, trained: Callable) -> None:
    """Stopped twice within epochs; the unlabelled images are in the middle of a pass."""
    cfg = config('icd', **{'default_hooks.checkpoint.by_epoch': False})
    images = cfg.train_dataloader.dataset.to_dict()
    labeled = {**images, 'indices': 15}
    cfg.train_dataloader.dataset = dict(type='PartlyLabeledDataset', labeled=labeled, unlabeled=images)
    cfg.train_dataloader.batch_sampler = dict(type='PartlyLabeledBatchSampler', unlabeled=19)
    if not in_memory:
        cfg.default_hooks.whole_batches.max_memory = 0
    whole, _ = trained(cfg)
    resumed, run = trained(cfg, 2, 4)
    assert 'Epoch 2 continues after 1 of its 3 batches.' in logged(run)
    assert differences(whole, resumed) == []


@pytest.mark.slow
def test_the_average_of_a_recipe(config: Callable, trained: Callable) -> None:
    """Stopped within an epoch, with the schedule, the clipped gradients and the averages of the recipes."""
    recipe = Config.fromfile(CONFIGS / '_base_' / 'recipes' / 'standard_small.py')
    cfg = config('icd', 'kd', **{'default_hooks.checkpoint.by_epoch': False})
    for section in ('optim_wrapper', 'param_scheduler'):
        cfg[section] = recipe[section]
    cfg.default_hooks.average = recipe.default_hooks.average
    cfg.model.data_preprocessor = dict(MIXUP, batch_augments=recipe.data_preprocessor.batch_augments)
    whole, _ = trained(cfg)
    resumed, _ = trained(cfg, 2, 5)
    assert differences(whole, resumed) == []


@pytest.mark.slow
def test_epochs_with_a_fresh_optimizer(config: Callable, trained: Callable) -> None:
    """Stopped between the epochs and within the second, which keeps its momentum then, and the weight of a loss."""
    options = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.loss_schedule.fresh_optimizer': True}
    cfg = config('hkd', **options, **{'optim_wrapper.optimizer': dict(_delete_=True, type='Adam', lr=1e-2)})
    whole, _ = trained(cfg)
    for stops in ([3], [4], [2, 5]):
        resumed, _ = trained(cfg, *stops)
        assert differences(whole, resumed) == [], stops


@pytest.mark.slow
def test_a_drawn_seed_and_images_from_workers(config: Callable, trained: Callable) -> None:
    """Stopped within epochs, and resumed with other workers."""
    workers = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    none = {'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False}
    cfg = config(**workers, **{'randomness.seed': None, 'default_hooks.checkpoint.by_epoch': False})
    cfg.model.data_preprocessor = cfg.data_preprocessor = MIXUP
    cfg.model.head.loss = dict(type='CrossEntropyLoss', use_soft=True)
    cfg.train_dataloader.dataset.pipeline.insert(1, ERASING)
    cfg.param_scheduler = dict(type='OneCycleLR', eta_max=0.1, total_steps=6, by_epoch=False)
    resumed, run = trained(cfg, 2, 5, **none)
    assert 'Epoch 2 continues after 2 of its 3 batches.' in logged(run)
    # the first epoch was validated before
    assert run.stop.validated_at == [6]
    cfg.randomness.seed = read_checkpoint(resumed)['meta']['seed']
    whole, _ = trained(cfg)
    assert differences(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ('sampler', 'workers', 'stop', 'in_validation'),
    # the second one is stopped in its validation
    [('InfiniteSampler', 1, 5, False), ('DefaultSampler', 0, 6, True)],
)
def test_loops_that_count_iterations(
    sampler: str, workers: int, stop: int, in_validation: bool, config: Callable, trained: Callable
) -> None:
    cfg = config(**{'train_dataloader.sampler.type': sampler, 'train_dataloader.num_workers': workers})
    cfg.train_dataloader.dataset.pipeline.insert(1, ERASING)
    cfg.train_cfg = dict(by_epoch=False, max_iters=6, val_interval=6)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    whole, _ = trained(cfg)
    resumed, run = trained(cfg, stop, in_validation=in_validation)
    assert run.stop.validated_at == [6]
    assert differences(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize(('priority', 'stops'), [('LOWEST', [6, 9]), ('NORMAL', [6])])
def test_early_stopping_counts_on(priority: str, stops: list[int], config: Callable, trained: Callable) -> None:
    """Stopped after the validation that is the best, which it has seen after or before the checkpoint, and later."""
    scores = given(1.0, 3.0, 2.0, 2.0, 5.0, 5.0)
    stopping = dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=2, priority=priority)
    cfg = config(custom_hooks=[scores, stopping], **{'train_cfg.max_epochs': 6})
    cfg.param_scheduler = dict(type='ReduceOnPlateauLR', monitor='accuracy/top1', rule='greater', patience=0)
    whole, run = trained(cfg)
    assert run.epoch == 4
    resumed, run = trained(cfg, *stops)
    assert run.epoch == 4
    assert differences(whole, resumed) == []


@pytest.mark.slow
def test_early_stopping_in_a_loop_that_counts_iterations(config: Callable, trained: Callable) -> None:
    """No validation is 60 % better than the first one: the third ends the training."""
    stopping = dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=2, min_delta=60.0)
    cfg = config(custom_hooks=[stopping])
    cfg.train_cfg = dict(by_epoch=False, max_iters=20, val_interval=2)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1)
    whole, run = trained(cfg)
    assert run.iter == 6
    resumed, run = trained(cfg, 3, 5)
    assert run.iter == 6
    assert differences(whole, resumed) == []


@pytest.mark.slow
def test_early_stopping_that_has_ended_the_training(config: Callable, trained: Callable) -> None:
    """The second validation reaches the threshold and is the best one: there is nothing left to train."""
    scores = given(1.0, 3.0, 2.0, 2.0)
    stopping = dict(type='EarlyStoppingHook', monitor='accuracy/top1', stopping_threshold=2.5)
    cfg = config(custom_hooks=[scores, stopping], **{'train_cfg.max_epochs': 4})
    _, run = trained(cfg)
    again = Config({**cfg.to_dict(), 'work_dir': run.work_dir, 'resume': True})
    again.experiment_name = 'again'
    again = Runner.from_cfg(again)
    again.train()
    assert run.epoch == again.epoch == 2


RECIPE = dict(
    type='SwitchRecipeHook',
    schedule=[dict(action_epoch=2, loss=dict(type='SeesawLoss', num_classes=10), train_pipeline=[ERASING, PACK])],
)


@pytest.mark.slow
def test_hooks_that_change_the_training(config: Callable, trained: Callable) -> None:
    """Stopped within epochs: a loss with its own counts, batch statistics, averages of mmpretrain's kind."""
    hooks = [RECIPE, dict(type='PreciseBNHook', num_samples=30), dict(type='EMAHook')]
    cfg = config(custom_hooks=hooks, **{'train_cfg.max_epochs': 3, 'default_hooks.checkpoint.by_epoch': False})
    cfg.default_hooks.whole_batches.max_memory = 0
    cfg.param_scheduler.T_max = 9
    whole, _ = trained(cfg)
    resumed, run = trained(cfg, 5, 7)
    assert differences(whole, resumed) == []
    # no warning where nothing is lost
    assert 'of mmpretrain.' not in logged(run)


def test_a_loop_of_another_kind_validates_when_it_likes() -> None:
    """It need not have what mmengine's loops have."""
    run = mock.Mock(epoch=1, train_loop=SimpleNamespace())
    DueValidation().before_train(run)
    assert not run.val_loop.run.called
