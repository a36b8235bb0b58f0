"""WholeBatchHook in real runs on a small problem."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmrazor.registry import MODELS

from icd_mmrazor.datasets import WholeBatches
from icd_mmrazor.engine.hooks import WholeBatchHook
from icd_mmrazor.utils import DatasetError, SettingError


class Seen(Hook):
    """Keep the batches of a run."""

    def __init__(self) -> None:
        self.training: list[dict] = []
        self.validation: list[dict] = []
        self.workers: set[int] = set()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.training.append(data_batch)
        self.workers.add(runner.train_dataloader.num_workers)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.validation.append(data_batch)


def logged(cfg: Config) -> str:
    return '\n'.join(file.read_text() for file in Path(cfg.work_dir).glob('*/*.log'))


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


def test_a_run_trains_on_whole_batches(plain_config: Callable, runner: Callable) -> None:
    # settings of workers, of which none is started
    workers = dict(num_workers=2, persistent_workers=True, timeout=60, multiprocessing_context='spawn')
    cfg = plain_config(**{'train_cfg.max_epochs': 2})
    cfg.train_dataloader.update(workers)
    run, seen = trained(cfg, runner)
    loader = run.train_dataloader
    batches = WholeBatches(loader.dataset, seed=0)
    labels = loader.dataset.get_gt_labels()
    assert [len(batch['inputs']) for batch in seen.training] == [24, 24, 16] * 2
    for iteration, batch in enumerate(seen.training):
        (sample,) = batch['data_samples']
        assert torch.equal(batch['inputs'], batches(sample.sample_idx, iteration)['inputs'])
        assert sample.gt_label.tolist() == labels[sample.sample_idx].tolist()
    for epoch in (seen.training[:3], seen.training[3:]):
        assert sorted(i for batch in epoch for i in batch['data_samples'][0].sample_idx) == list(range(64))
    message = 'WholeBatchHook: 64 training images lie on cpu (0.1 MB); each batch, 16 x 16, is made there at once.'
    assert 'WholeBatchHook: reads the 64 training images.' in logged(cfg).partition(message)[0]
    assert message in logged(cfg)
    # validation is as ever, and so is the loader afterwards
    assert {(type(batch['inputs']), len(batch['data_samples'])) for batch in seen.validation} == {(list, 40)}
    assert loader.collate_fn.func is pseudo_collate
    assert seen.workers == {0}
    assert (loader.num_workers, loader.timeout) == (2, 60)
    loader.num_workers, loader.timeout = 0, 0
    assert len(next(iter(loader))['data_samples']) == 24


def test_mixup_has_a_data_sample_for_each_image(plain_config: Callable, runner: Callable) -> None:
    cfg = plain_config()
    cfg.model.data_preprocessor = dict(
        type='ClsDataPreprocessor', num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0))
    )
    cfg.model.head.loss = dict(type='CrossEntropyLoss', use_soft=True)
    _, seen = trained(cfg, runner)
    assert 'lie on cpu' in logged(cfg)
    for batch in seen.training:
        # scores were made of the labels, mixed
        assert len(batch['data_samples']) == len(batch['inputs'])
        assert all(sample.gt_score.shape == (10,) for sample in batch['data_samples'])


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'train_dataloader.collate_fn': dict(type=list)}, 'train_dataloader has a collate_fn of its own'),
        ({'train_dataloader.dataset.pipeline': [dict(type='PackInputs', meta_keys=())]}, r'the pipeline \(PackInputs'),
        ({'default_hooks.whole_batches.max_memory': 0}, 'max_memory=0'),
        ({'default_hooks.whole_batches.max_memory': 1e-6}, 'the images take .* more than max_memory=1e-06'),
        ({'data_preprocessor': dict(type='ImgDataPreprocessor')}, 'the data_preprocessor is ImgDataPreprocessor'),
    ],
    ids=str,
)
def test_other_runs_say_why_they_stay_as_they_are(options: dict, reason: str, plain_config: Callable) -> None:
    cfg = plain_config()
    cfg.merge_from_dict({'data_preprocessor': dict(_delete_=True, type='ClsDataPreprocessor'), **options})
    # a real runner takes seconds to build
    run = mock.Mock(seed=0, model=MODELS.build(cfg.model))
    run.model.data_preprocessor = MODELS.build(cfg.data_preprocessor)
    run.train_dataloader = Runner.build_dataloader(cfg.train_dataloader)
    settings = dict(vars(run.train_dataloader))
    hook = HOOKS.build(cfg.default_hooks.whole_batches)
    hook.before_train(run)
    assert vars(run.train_dataloader) == settings
    assert not hasattr(run.train_dataloader.dataset, '__getitems__')
    ((message,), _) = run.logger.info.call_args
    assert re.search(f'the training images are prepared one by one: .*{reason}', message), message
    hook.after_train(run)
    assert vars(run.train_dataloader) == settings


def test_bad_input_is_refused_before_the_images_are_read(plain_config: Callable, runner: Callable) -> None:
    cfg = plain_config(**{'model.head.num_classes': 7})
    with pytest.raises(DatasetError, match='labels from 0 to 9'):
        runner(cfg).train()
    assert 'WholeBatchHook:' not in logged(cfg)


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ({'max_memory': -1}, r'max_memory=-1 must be a number of GB'),
        ({'max_memory': '1GB'}, r"max_memory='1GB' must be"),
        ({'max_memory': True}, 'max_memory=True must be'),
        ({'device': 'gpu'}, r"device='gpu' cannot be used \(.*Give 'cpu'"),
    ],
    ids=str,
)
def test_refuses_settings(setting: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        WholeBatchHook(**setting)
