"""InMemoryAugmentationHook in real runs on a small problem."""

import re
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import CHANGED, logged
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS
from mmengine.runner import Runner
from mmpretrain.engine.hooks import SwitchRecipeHook
from mmrazor.registry import MODELS
from torch.utils.data import DataLoader

from icd_mmrazor.configuration.changes import config_changes
from icd_mmrazor.datasets import InMemoryBatches
from icd_mmrazor.datasets.loaders import NumberedLoader
from icd_mmrazor.engine.hooks import InMemoryAugmentationHook
from icd_mmrazor.errors import DatasetError, SettingError


class Seen(Hook):
    """Keep the batches of a run."""

    def __init__(self) -> None:
        self.training: list[dict] = []
        self.validation: list[dict] = []
        self.workers: set[int] = set()
        self.workers_before = set(active_children())

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.training.append(data_batch)
        self.workers.add(len(set(active_children()) - self.workers_before))

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.validation.append(data_batch)


@pytest.fixture
def plain_config(demo_config: Callable) -> Callable[..., Config]:
    """Return the config of a student alone: crop and flip, 64 images in batches of 24, a learning rate that matters."""

    def config(name: str = 'res8_digits', **options: object) -> Config:
        cfg = demo_config(name, **{'train_dataloader.batch_size': 24, **options})
        cfg.train_dataloader.dataset.indices = None
        cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='RandomFlip', prob=0.5, direction='horizontal'))
        return cfg

    return config


def trained(cfg: Config, runner: Callable) -> tuple[Runner, Seen]:
    run, seen = runner(cfg), Seen()
    run.register_hook(seen)
    run.train()
    return run, seen


@pytest.mark.slow
def test_a_run_trains_on_images_in_memory(plain_config: Callable, runner: Callable) -> None:
    # settings of workers, none of which is started
    workers = dict(num_workers=2, persistent_workers=True, timeout=60, multiprocessing_context='spawn')
    cfg = plain_config(**{'train_cfg.max_epochs': 2})
    cfg.train_dataloader.update(workers)
    assert cfg.default_hooks.whole_batches.type == 'InMemoryAugmentationHook'
    run, seen = trained(cfg, runner)
    loader = run.train_dataloader
    batches = InMemoryBatches(loader.dataset, seed=0)
    labels = loader.dataset.get_gt_labels()
    assert [len(batch['inputs']) for batch in seen.training] == [24, 24, 16] * 2
    for iteration, batch in enumerate(seen.training):
        (sample,) = batch['data_samples']
        assert torch.equal(batch['inputs'], batches(sample.sample_idx, iteration)['inputs'])
        assert sample.gt_label.tolist() == labels[sample.sample_idx].tolist()
    for epoch in (seen.training[:3], seen.training[3:]):
        assert sorted(i for batch in epoch for i in batch['data_samples'][0].sample_idx) == list(range(64))
    message = 'InMemoryAugmentationHook: 64 training images are on cpu (0.1 MB)'
    assert 'InMemoryAugmentationHook: reading 64 training images.' in logged(cfg).partition(message)[0]
    assert message in logged(cfg)
    # validation is as ever, and so is the loader afterwards
    assert {(type(batch['inputs']), len(batch['data_samples'])) for batch in seen.validation} == {(list, 40)}
    assert seen.workers == {0}
    assert type(loader) is DataLoader
    assert loader is run.train_dataloader
    assert (loader.collate_fn.func, loader.num_workers, loader.timeout) == (pseudo_collate, 2, 60)


class Change(Hook):
    """Change something before each of the epochs that are named, after all other hooks, and when it is resumed."""

    priority = 'VERY_LOW'

    def __init__(self, change: Callable[[Runner], None], *epochs: int) -> None:
        self.change, self.epochs = change, epochs

    def before_train(self, runner: Runner) -> None:
        for epoch in self.epochs:
            if epoch < runner.epoch:
                self.change(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch in self.epochs:
            self.change(runner)


class Compared(Seen):
    """Compare each batch with one that is read at this moment, and note down what it looks like."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        batch = InMemoryBatches(runner.train_dataloader.dataset, seed=0)(
            data_batch['data_samples'][0].sample_idx, runner.iter
        )
        assert torch.equal(data_batch['inputs'], batch['inputs'])
        labels = data_batch['data_samples'][0].gt_label
        assert torch.equal(labels, batch['data_samples'][0].gt_label)
        self.looks.append(
            (data_batch['inputs'].shape[-1], int(data_batch['inputs'].max()), sorted(set(labels.tolist())))
        )


def transforms_of(runner: Runner) -> list:
    return runner.train_dataloader.dataset.pipeline.transforms


def grow(runner: Runner) -> None:
    size = transforms_of(runner)[0].crop_size[0] + 2
    transforms_of(runner)[0].crop_size = (size, size)


def pad_white(runner: Runner) -> None:
    transforms_of(runner)[0].pad_val = 255


def resize(runner: Runner) -> None:
    transforms_of(runner).insert(0, TRANSFORMS.build(dict(type='Resize', scale=(40, 40))))
    transforms_of(runner)[1].crop_size = (40, 40)


def relabel(runner: Runner) -> None:
    dataset = runner.train_dataloader.dataset
    dataset.data_list = [dict(dataset.get_data_info(i), gt_label=9) for i in range(len(dataset))]
    dataset.data_bytes, dataset.data_address = dataset._serialize_data()


def switch_recipe(runner: Runner) -> None:
    pipeline = [dict(type='CenterCrop', crop_size=12), dict(type='PackInputs')]
    SwitchRecipeHook([dict(action_epoch=2, train_pipeline=pipeline)]).before_train_epoch(runner)


TENS = list(range(10))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('change', 'before', 'after'),
    [
        (grow, (16, 231, TENS), (18, 231, TENS)),
        (pad_white, (16, 231, TENS), (16, 255, TENS)),
        (resize, (16, 231, TENS), (40, 231, TENS)),
        (relabel, (16, 231, TENS), (16, 231, [9])),
        (switch_recipe, (16, 231, TENS), (12, 231, TENS)),
    ],
)
def test_what_hooks_change_is_noticed(
    change: Callable, before: tuple, after: tuple, plain_config: Callable, runner: Callable
) -> None:
    run, seen = runner(plain_config(**{'train_cfg.max_epochs': 2, 'train_dataloader.batch_size': 64})), Compared()
    run.register_hook(seen)
    run.register_hook(Change(change, 1))
    run.train()
    assert [(look[0], max(look[1], before[1]), look[2]) for look in seen.looks] == [before, after]
    again = 'the training set or its pipeline has changed; reading 64 images again.'
    assert logged(run.cfg).count(again) == (0 if change is grow else 1)


@pytest.mark.slow
def test_a_collate_function_that_is_set_meanwhile_is_used(plain_config: Callable, runner: Callable) -> None:
    run, seen = runner(plain_config(**{'train_cfg.max_epochs': 2})), Seen()

    def change(runner: Runner) -> None:
        runner.train_dataloader.collate_fn = lambda batch: default_collate(batch[:2])

    run.register_hook(seen)
    run.register_hook(Change(change, 1))
    run.train()
    assert [len(batch['inputs']) for batch in seen.training] == [24, 24, 16, 2, 2, 2]
    assert 'train_dataloader has a custom collate_fn' in logged(run.cfg)


@pytest.mark.slow
@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_pipeline_that_becomes_another_is_run_image_by_image(
    by_epoch: bool, plain_config: Callable, runner: Callable
) -> None:
    cfg = plain_config(**{'train_cfg.max_epochs': 3, 'train_dataloader.num_workers': 1})
    if not by_epoch:
        cfg.train_cfg = dict(by_epoch=False, max_iters=9, val_interval=9)
        cfg.default_hooks.checkpoint.update(by_epoch=False)

    class Switch(Seen):
        def after_train_iter(self, runner: Runner, batch_idx: int, **_: Any) -> None:
            if runner.iter == 2:
                dataset = runner.train_dataloader.dataset
                dataset.pipeline = Compose([dict(type='RandomErasing', erase_prob=1.0), dict(type='PackInputs')])

    run, seen = runner(cfg), Switch()
    run.register_hook(seen)
    run.train()
    assert [type(batch['inputs']) for batch in seen.training] == [torch.Tensor] * 3 + [list] * 6
    # from workers again, as soon as a pass starts
    assert seen.workers == {0, 1}
    assert sorted(s.sample_idx for batch in seen.training[3:6] for s in batch['data_samples']) == list(range(64))
    assert 'prepared one by one: the pipeline (RandomErasing, PackInputs)' in logged(cfg)


@pytest.mark.slow
def test_a_pipeline_that_changes_all_the_time_is_run_image_by_image(plain_config: Callable, runner: Callable) -> None:
    class Darken(Seen):
        def after_train_iter(self, runner: Runner, batch_idx: int, **_: Any) -> None:
            transforms_of(runner)[0].pad_val = runner.iter + 1

    run, seen = runner(plain_config()), Darken()
    run.register_hook(seen)
    run.train()
    assert [type(batch['inputs']) for batch in seen.training] == [torch.Tensor] * 2 + [list]
    assert 'the pipeline changes more often than once in a pass over the data' in logged(run.cfg)


@pytest.mark.slow
def test_a_resumed_run_sees_the_changes(plain_config: Callable, runner: Callable, tmp_path: Path) -> None:
    def looks(name: str, epochs: int, resume: bool) -> list[torch.Tensor]:
        cfg = plain_config(**{'train_cfg.max_epochs': epochs, **CHANGED})
        cfg.work_dir, cfg.resume = str(tmp_path / name), resume
        run, seen = runner(cfg), Compared()
        for hook in (seen, Change(pad_white, 1), Change(grow, 2)):
            run.register_hook(hook)
        run.train()
        return [batch['inputs'] for batch in seen.training]

    whole = looks('whole', 3, resume=False)
    stopped = looks('stopped', 2, resume=False)
    for one, other in zip(whole, [*stopped, *looks('stopped', 3, resume=True)], strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_another_batch_size_and_another_loader(plain_config: Callable, runner: Callable) -> None:
    """Of the batch sampler, whose place is taken; and a second loader of the same dataset, which hooks may have."""
    run, seen = runner(plain_config()), Compared()

    def change(runner: Runner) -> None:
        runner.train_dataloader.batch_sampler.batch_size = 32
        other = DataLoader(runner.train_dataloader.dataset, batch_size=8, collate_fn=pseudo_collate)
        assert len(next(iter(other))['inputs']) == 8

    run.register_hook(seen)
    run.register_hook(Change(change, 0))
    run.train()
    assert [len(batch['inputs']) for batch in seen.training] == [32, 32]


@pytest.mark.slow
def test_another_loader_takes_the_place(plain_config: Callable, runner: Callable) -> None:
    cfg = plain_config(**{'train_cfg.max_epochs': 2})
    run, seen = runner(cfg), Compared()
    first = run.train_dataloader

    def change(runner: Runner) -> None:
        other = Config(cfg.train_dataloader.to_dict())
        other.batch_size, other.dataset.indices = 10, 20
        runner.train_loop.dataloader = Runner.build_dataloader(other, seed=0)

    swap = Change(change, 1)
    swap.priority = 'NORMAL'
    for hook in (seen, swap):
        run.register_hook(hook)
    run.train()
    assert [len(batch['inputs']) for batch in seen.training] == [24, 24, 16, 10, 10]
    for loader in (first, run.train_dataloader):
        assert not isinstance(loader, NumberedLoader)


@pytest.mark.slow
def test_mixup_has_a_data_sample_for_each_image(plain_config: Callable, runner: Callable) -> None:
    cfg = plain_config()
    cfg.model.data_preprocessor = dict(
        type='ClsDataPreprocessor', num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0))
    )
    cfg.model.head.loss = dict(type='CrossEntropyLoss', use_soft=True)
    _, seen = trained(cfg, runner)
    assert 'are on cpu' in logged(cfg)
    for batch in seen.training:
        # scores were made of the labels, mixed
        assert len(batch['data_samples']) == len(batch['inputs'])
        assert all(sample.gt_score.shape == (10,) for sample in batch['data_samples'])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'train_dataloader.collate_fn': dict(type=list)}, 'custom collate_fn'),
        ({'train_dataloader.dataset.pipeline': [dict(type='PackInputs', meta_keys=())]}, r'the pipeline \(PackInputs'),
        ({'default_hooks.whole_batches.max_memory': 0}, 'max_memory=0'),
        ({'default_hooks.whole_batches.max_memory': 1e-6}, 'the images take .* more than max_memory=1e-06'),
        ({'data_preprocessor': dict(type='ImgDataPreprocessor')}, 'the data_preprocessor is ImgDataPreprocessor'),
    ],
    ids=str,
)
def test_unsupported_runs_log_the_reason(options: dict, reason: str, plain_config: Callable) -> None:
    cfg = plain_config()
    cfg.merge_from_dict({'data_preprocessor': dict(_delete_=True, type='ClsDataPreprocessor'), **options})
    # a real runner takes seconds to build
    run = mock.Mock(seed=0, model=MODELS.build(cfg.model))
    run.model.data_preprocessor = MODELS.build(cfg.data_preprocessor)
    loader = run.train_dataloader = run.train_loop.dataloader = Runner.build_dataloader(cfg.train_dataloader)
    hook = HOOKS.build(cfg.default_hooks.whole_batches)
    hook.before_train(run)
    assert getattr(run.train_loop.dataloader, 'make', None) is None
    ((message,), _) = run.logger.info.call_args
    assert re.search(f'training images are prepared one by one: .*{reason}', message), message
    hook.after_train(run)
    assert run.train_loop.dataloader is loader


@pytest.mark.slow
def test_bad_input_is_refused_before_the_images_are_read(plain_config: Callable, runner: Callable) -> None:
    cfg = plain_config(**{'model.head.num_classes': 7})
    with pytest.raises(DatasetError, match='labels from 0 to 9'):
        runner(cfg).train()
    assert 'InMemoryAugmentationHook:' not in logged(cfg)


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ({'max_memory': -1}, 'max_memory=-1'),
        ({'max_memory': '1GB'}, "max_memory='1GB'"),
        ({'max_memory': True}, 'max_memory=True'),
        ({'device': 'gpu'}, "device='gpu'"),
    ],
    ids=str,
)
def test_refuses_settings(setting: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'InMemoryAugmentationHook: {message}'):
        InMemoryAugmentationHook(**setting)


def test_configs_of_0_1_have_another_name_for_it() -> None:
    hook = HOOKS.build(dict(type='WholeBatchHook', device='cpu', max_memory=1.5))
    assert type(hook) is InMemoryAugmentationHook
    assert (hook.device, hook.max_memory) == ('cpu', 1.5)
    # a run of 0.1 is resumed with the names of today
    former = dict(
        default_hooks=dict(whole_batches=dict(type='WholeBatchHook')), custom_hooks=[dict(type='FrozenFeatureHook')]
    )
    assert config_changes(former, dict(default_hooks=dict(whole_batches=dict(type='InMemoryAugmentationHook')))) == []
