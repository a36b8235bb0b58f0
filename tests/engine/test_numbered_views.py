"""Numbered views in real runs on a small problem."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import logged
from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.datasets.samples import sample_indices, view_indices
from icd_mmrazor.datasets.views import number_views
from icd_mmrazor.errors import SettingError

pytestmark = pytest.mark.slow


class Numbers(Hook):
    """Number the views of a run, as the hook does that opens a teacher cache, and keep the batches."""

    priority = 'HIGH'

    def __init__(self, setting: Any) -> None:
        self.setting, self.batches, self.refused = setting, [], []

    def before_train(self, runner: Runner) -> None:
        if self.setting is not None:
            runner.model.teacher_cache = SimpleNamespace(
                refuse_change=self.refused.append, in_use=False, outputs=lambda *_: None
            )
            number_views(runner, self.setting, seed=1)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append(data_batch)

    @property
    def views(self) -> dict[int, bytes]:
        """The pixels of each view, which must be the same whenever it is seen."""
        known: dict[int, bytes] = {}
        for batch in self.batches:
            for row, image in zip(view_indices(batch['data_samples']), batch['inputs'], strict=True):
                pixels = image.contiguous().numpy().tobytes()
                assert known.setdefault(row, pixels) == pixels
        return known


@pytest.fixture
def trained(demo_config: Callable, runner: Callable) -> Callable[..., tuple[Numbers, Runner]]:
    """Train a student alone on 64 images in batches of 24, three a pass, for three epochs."""

    def train(
        setting: Any, *hooks: Hook, name: str = 'res8_digits', iterations: bool = False, **options: Any
    ) -> tuple[Numbers, Runner]:
        cfg = demo_config(name, **{'train_dataloader.batch_size': 24, 'train_cfg.max_epochs': 3, **options})
        cfg.train_dataloader.dataset.indices = None
        cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='RandomFlip', prob=0.5, direction='horizontal'))
        if iterations:
            cfg.train_cfg = dict(by_epoch=False, max_iters=9, val_interval=9)
            cfg.default_hooks.checkpoint.update(by_epoch=False)
        run, numbers = runner(cfg), Numbers(setting)
        for hook in (numbers, *hooks):
            run.register_hook(hook)
        run.train()
        assert getattr(run.train_dataloader, 'views', None) is None
        return numbers, run

    return train


MIXUP = dict(type='Mixup', alpha=1.0)
ONE_BY_ONE = {'default_hooks.whole_batches.max_memory': 0}


@pytest.mark.parametrize('setting', ['all', 'first'])
def test_numbers_leave_the_images_as_they_are(setting: str, trained: Callable) -> None:
    (numbered, run), (plain, _) = trained(setting), trained(None)
    assert 'are on cpu' in logged(run.cfg)
    for one, other in zip(numbered.batches, plain.batches, strict=True):
        assert torch.equal(one['inputs'], other['inputs'])
        assert view_indices(other['data_samples']) is None
    rows = [row for batch in numbered.batches for row in view_indices(batch['data_samples'])]
    indices = [index for batch in plain.batches for index in sample_indices(batch['data_samples'])]
    number = 1 if setting == 'first' else 50
    assert [row // number for row in rows] == indices
    if setting == 'all':
        assert len(numbered.views) == len({*rows}) > 150
    assert not numbered.refused


def test_fixed_views_are_the_same_however_they_are_made(trained: Callable) -> None:
    expected = {2 * index + view for index in range(64) for view in (0, 1)}
    (known, run), *others = (
        trained(2),
        trained(2, **ONE_BY_ONE),
        trained(2, iterations=True, **{'randomness.seed': 3}),
        trained(2, iterations=True, **ONE_BY_ONE, **{'train_dataloader.num_workers': 1}),
    )
    assert 'are on cpu' in logged(run.cfg)
    assert known.views.keys() == expected
    passes = np.array([r for batch in known.batches for r in view_indices(batch['data_samples'])]).reshape(3, 64)
    assert (passes % 2 == [[0], [1], [0]]).all()
    for other, _ in others:
        assert other.views == known.views


@pytest.mark.parametrize('options', [ONE_BY_ONE, {'default_hooks.whole_batches.max_memory': 1e-6}], ids=str)
def test_all_views_are_refused_if_images_are_prepared_one_by_one(options: dict, trained: Callable) -> None:
    epoch = mock.Mock(spec=Hook, priority='LOWEST')
    with pytest.raises(SettingError, match=r"views='all' .*max_memory.*the pipeline's 50; views=1"):
        trained('all', epoch, **options)
    epoch.before_train_epoch.assert_not_called()


class Change(Hook):
    """Change the pipeline when a run starts, or before its second epoch."""

    def __init__(self, change: Callable[[list], None], at_start: bool = False) -> None:
        self.change, self.at_start = change, at_start

    def before_train(self, runner: Runner) -> None:
        if self.at_start:
            self.change(runner.train_dataloader.dataset.pipeline.transforms)

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == 1 and not self.at_start:
            self.change(runner.train_dataloader.dataset.pipeline.transforms)


def grow(transforms: list) -> None:
    transforms[0].crop_size = (18, 18)


def pad_white(transforms: list) -> None:
    transforms[0].pad_val = 255


@pytest.mark.parametrize(
    ('change', 'setting', 'at_start'),
    [
        (grow, 'all', False),
        (grow, 2, True),
        *((pad_white, setting, at_start) for setting in ('all', 'first', 2) for at_start in (True, False)),
    ],
)
def test_a_cache_is_told_of_another_pipeline(change: Callable, setting: Any, at_start: bool, trained: Callable) -> None:
    numbers, _ = trained(setting, Change(change, at_start), **{'train_cfg.max_epochs': 2})
    assert numbers.refused == ['the training set or its pipeline has changed']
    numbered = [view_indices(batch['data_samples']) is not None for batch in numbers.batches]
    assert numbered == [not at_start or setting != 'all'] * 3 + [setting != 'all'] * 3


def test_a_cache_is_told_of_other_labels(trained: Callable) -> None:
    class Relabel(Hook):
        def before_train_epoch(self, runner: Runner) -> None:
            if runner.epoch == 1:
                dataset = runner.train_dataloader.dataset
                dataset.data_list = [dict(dataset.get_data_info(i), gt_label=9) for i in range(len(dataset))]
                dataset.data_bytes, dataset.data_address = dataset._serialize_data()

    numbers, _ = trained('all', Relabel(), **{'train_cfg.max_epochs': 2})
    assert len(numbers.refused) == 1


def test_a_cache_is_told_of_another_loader(trained: Callable) -> None:
    class Swap(Hook):
        def before_train_epoch(self, runner: Runner) -> None:
            if runner.epoch == 1:
                other = runner.cfg.train_dataloader.copy()
                other.update(batch_size=10)
                runner.train_loop.dataloader = Runner.build_dataloader(other, seed=0)

    for options in ({}, ONE_BY_ONE):
        numbers, _ = trained('first', Swap(), **options, **{'train_cfg.max_epochs': 2})
        assert len(numbers.refused) == 1


def test_a_cache_of_all_views_is_told_if_images_are_prepared_one_by_one_from_now_on(trained: Callable) -> None:
    class Collate(Hook):
        def before_train_epoch(self, runner: Runner) -> None:
            if runner.epoch == 1:
                pseudo_collate = runner.train_dataloader.collate_fn
                runner.train_dataloader.collate_fn = lambda batch: pseudo_collate(batch)

    for setting in ('all', 'first'):
        numbers, _ = trained(setting, Collate())
        numbered = [view_indices(batch['data_samples']) is not None for batch in numbers.batches]
        assert numbered == [True] * 3 + [setting == 'first'] * 6
        assert len(numbers.refused) == (setting == 'all')
        assert all('custom collate_fn' in reason for reason in numbers.refused)


class WithoutMixing(Hook):
    """Switch the mixing off in the last epoch, as SwitchRecipeHook does."""

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == 2:
            runner.model.data_preprocessor.batch_augments = None


@pytest.mark.parametrize('workers', [0, 1])
def test_mixing_that_ends_is_not_in_the_views_any_more(workers: int, trained: Callable) -> None:
    mixup = {'data_preprocessor.num_classes': 10, 'data_preprocessor.batch_augments': dict(augments=[MIXUP])}
    options = {'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0}
    options['model.architecture.head.loss'] = dict(type='CrossEntropyLoss', use_soft=True)
    numbers, _ = trained(1, WithoutMixing(), name='icd_res20_res8_digits', **mixup, **options)
    # a mixture has fractions
    assert [batch['inputs'][0].is_floating_point() for batch in numbers.batches] == [True] * 6 + [False] * 3
    assert [view_indices(batch['data_samples']) is None for batch in numbers.batches] == [False] * 6 + [True] * 3
    assert numbers.refused == ['images are mixed in another way']


def test_images_are_mixed_by_their_views(trained: Callable) -> None:
    mixup = {'data_preprocessor.num_classes': 10, 'data_preprocessor.batch_augments': dict(augments=[MIXUP])}
    known: dict = {}
    for options in ({}, {'randomness.seed': 3, 'train_dataloader.num_workers': 1}):
        numbers, run = trained(1, name='icd_res20_res8_digits', **mixup, **options)
        assert 'mixtures that are made one by one' in logged(run.cfg)
        assert numbers.views.keys() == set(range(64))
        known = known or numbers.views
        assert numbers.views == known
    assert all(image.dtype == torch.float32 for batch in numbers.batches for image in batch['inputs'])
    assert all(sample.gt_score.shape == (10,) for batch in numbers.batches for sample in batch['data_samples'])
