"""Trainings of all kinds with a cache of the teacher's outputs, against the same trainings with the teacher."""

import errno
import functools
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from cached_trainings import ALL, counts, other_than_counts, short_training
from helpers import logged
from mmengine.config import Config

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.teacher_cache.cache import TeacherCache
from icd_mmrazor.models.teacher_cache.store import OutputStore

JITTER = dict(type='ColorJitter', brightness=0.4, contrast=0.4)


@pytest.fixture
def config(demo_config: Callable, tmp_path: Path) -> Callable[..., Config]:
    return functools.partial(short_training, demo_config, tmp_path)


def trained(cfg: Config, runner: Callable) -> Path:
    """Train without a validation; return the last checkpoint."""
    cfg.train_cfg.pop('val_interval', None)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.save_best = None
    runner(cfg).train()
    return Path(Path(cfg.work_dir, 'last_checkpoint').read_text())


def trained_by_teacher(cfg: Config, runner: Callable) -> Path:
    """Train on the views that a cache numbers, with a teacher that runs in every step."""
    with mock.patch.object(TeacherCache, 'outputs', return_value=None):
        return trained(cfg, runner)


def _by_iterations(cfg: Config) -> None:
    cfg.train_cfg = dict(by_epoch=False, max_iters=6)
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.train_dataloader.batch_size = 16
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=6)


def _partly_labeled(cfg: Config) -> None:
    images = cfg.train_dataloader.dataset.to_dict()
    parts = dict(labeled={**images, 'indices': 16}, unlabeled=images)
    cfg.train_dataloader.dataset = dict(type='PartlyLabeledDataset', **parts)
    cfg.train_dataloader.batch_sampler = dict(type='PartlyLabeledBatchSampler', unlabeled=20)
    cfg.train_dataloader.batch_size = 24


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        lambda cfg: cfg.optim_wrapper.update(accumulative_counts=2),
        lambda cfg: cfg.update(custom_hooks=[dict(type='EMAHook')]),
        lambda cfg: cfg.model.update(channels_last=False),
        lambda cfg: cfg.optim_wrapper.update(type='AutocastOptimWrapper', dtype='bfloat16'),
        lambda cfg: cfg.update(custom_hooks=[dict(type='mmrazor.StopDistillHook', stop_epoch=1)]),
        _by_iterations,
        _partly_labeled,
    ],
    ids=['accumulation', 'average', 'layout', 'amp', 'stopped', 'iterations', 'unlabeled'],
)
def test_kinds_of_trainings(change: Callable, config: Callable, runner: Callable) -> None:
    checkpoints = []
    for cache, work_dir in ((None, 'plain'), (ALL, 'first'), (ALL, 'second')):
        cfg = config('icd+kd', cache, work_dir)
        change(cfg)
        checkpoints.append(trained(cfg, runner))
    assert [other_than_counts(checkpoints[0], each) for each in checkpoints[1:]] == [[], []]
    asked, computed = counts(cfg)
    assert asked > 0
    assert computed == 0


def _one_by_one(cfg: Config) -> None:
    cfg.train_dataloader.dataset.pipeline.insert(1, JITTER)


def _from_workers(cfg: Config) -> None:
    cfg.train_dataloader.dataset.pipeline.insert(
        1, dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=9)
    )
    cfg.train_dataloader.update(num_workers=2)


def _repeated(cfg: Config) -> None:
    cfg.train_dataloader.dataset = dict(type='mmengine.RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    cfg.train_cfg.max_epochs = 2


def _balanced(cfg: Config) -> None:
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='mmengine.ClassBalancedDataset', oversample_thr=0.2, dataset=dataset)


@pytest.mark.slow
@pytest.mark.parametrize('change', [_one_by_one, _from_workers, _repeated, _balanced])
def test_fixed_views_of_any_dataset(change: Callable, config: Callable, runner: Callable) -> None:
    """Four epochs of two views: the teacher sees each view once; in a second run it verifies one batch."""
    checkpoints, runs = [], []
    for train, work_dir, verify in (trained_by_teacher, 'plain', 0), (trained, 'first', 0), (trained, 'second', 200):
        cfg = config('kd', {'views': 2, 'verify': verify}, work_dir, **{'train_cfg.max_epochs': 4})
        change(cfg)
        checkpoints.append(train(cfg, runner))
        runs.append(cfg)
    assert [other_than_counts(checkpoints[0], each) for each in checkpoints[1:]] == [[], []]
    asked, computed = counts(runs[1])
    assert computed == asked * 2 / cfg.train_cfg.max_epochs
    assert counts(runs[2]) == (asked, cfg.train_dataloader.batch_size)


def _train_in_process(cfg: Config, runner: Callable, start: Any) -> None:
    torch.set_num_threads(1)
    start.wait()
    trained(cfg, runner)


@pytest.mark.slow
def test_two_trainings_of_different_seeds_fill_one_folder(config: Callable, runner: Callable) -> None:
    plain = [trained(config(work_dir=f'plain_{seed}', **{'randomness.seed': seed}), runner) for seed in (0, 1)]
    context = multiprocessing.get_context('fork')
    start = context.Barrier(2)
    cached = [config(cache=ALL, work_dir=f'cached_{seed}', **{'randomness.seed': seed}) for seed in (0, 1)]
    processes = [context.Process(target=_train_in_process, args=(cfg, runner, start)) for cfg in cached]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    for wanted, cfg in zip(plain, cached, strict=True):
        assert other_than_counts(wanted, Path(Path(cfg.work_dir, 'last_checkpoint').read_text())) == []


@pytest.mark.slow
@pytest.mark.parametrize('views', ['all', 2])
def test_mixing_that_starts_later_ends_the_cache(views: int | str, config: Callable, runner: Callable) -> None:
    checkpoints = []
    for train, work_dir in ((trained_by_teacher, 'plain'), (trained, 'cached')):
        cfg = config('icd', {'views': views, 'verify': 0}, work_dir)
        cfg.model.data_preprocessor = dict(type='ClsDataPreprocessor', num_classes=10, to_onehot=True)
        cfg.model.architecture.head.loss = dict(type='CrossEntropyLoss', use_soft=True)
        mixing = dict(action_epoch=2, batch_augments=dict(augments=[dict(type='Mixup', alpha=1.0)]))
        cfg.custom_hooks = [dict(type='SwitchRecipeHook', schedule=[mixing])]
        checkpoints.append(train(cfg, runner))
    assert other_than_counts(*checkpoints) == []
    assert 'the teacher cache is not used: images are mixed in another way' in logged(cfg)


@pytest.mark.slow
def test_a_full_disk_does_not_end_the_training(config: Callable, runner: Callable) -> None:
    plain, cfg, write = trained(config(work_dir='plain'), runner), config(cache=ALL, work_dir='full'), os.pwrite
    room = iter(range(60))

    def write_while_there_is_room(*args: Any) -> int:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*args)

    with mock.patch.object(os, 'pwrite', write_while_there_is_room):
        assert other_than_counts(plain, trained(cfg, runner)) == []
    assert 'no more outputs of the teacher are stored: No space left on device' in logged(cfg)
    again = config(cache=ALL, work_dir='again')
    assert other_than_counts(plain, trained(again, runner)) == []
    # the outputs of the first batch had found room
    assert counts(again) == (128, 128 - 24)


def test_a_limit_of_teacher_calls_counts_what_could_not_be_stored(config: Callable, runner: Callable) -> None:
    cfg = config(cache={'views': 'first', 'max_teacher_calls': 70})
    with (
        mock.patch.object(OutputStore, 'write', return_value=False),
        pytest.raises(SettingError, match='max_teacher_calls=70: 64 were made, and this batch needs 24 more'),
    ):
        trained(cfg, runner)


def test_what_is_not_a_number_is_verified_too(config: Callable, runner: Callable) -> None:
    """A loss of features trains on, whatever the logits are."""
    for work_dir in ('first', 'second'):
        cfg = config('icd', {'views': 'all', 'verify': 1}, work_dir)
        checkpoint = torch.load(cfg.model.teacher_ckpt)
        checkpoint['state_dict']['head.fc.bias'][3] = torch.nan
        torch.save(checkpoint, cfg.model.teacher_ckpt)
        trained(cfg, runner)
    assert counts(cfg) == (128, 128)


@pytest.mark.parametrize('settings', [{'path': 5}, {'path': ''}, {'verify': 0.5}, {'verify': 'x'}, {'verify': None}])
def test_settings_of_the_wrong_type_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match=f'teacher_cache.{next(iter(settings))}='):
        TeacherCache.of(settings)
