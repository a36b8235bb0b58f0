"""Real runs with two views of each image: batches, epochs, resumes, the teacher cache, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import logged, shipped
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from same_checkpoints import differences

from icd_mmrazor.datasets.samples import number_of_weak_views, sample_indices
from icd_mmrazor.engine.checks import ViewCheck
from icd_mmrazor.engine.description import describe_images
from icd_mmrazor.errors import SettingError

STRONG = [dict(type='Solarize', magnitude_range=(0, 256), magnitude_level=10, magnitude_std='inf', prob=1.0)]


class Seen(Hook):
    """Keep the batches of a run, and stop it in an iteration."""

    priority = 'LOWEST'

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.batches = stop, []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.stop:
            raise KeyboardInterrupt
        self.batches.append(data_batch)

    def images(self) -> list[torch.Tensor]:
        """Return the views of each batch."""
        return [torch.stack([*batch['inputs']]) for batch in self.batches]


@pytest.fixture
def config(demo_config: Callable) -> Callable[..., Config]:
    """MLKD on 64 images, in batches of 24, 24 and 16."""

    def make(in_memory: bool = True, **options: Any) -> Config:
        cfg = demo_config(**{'train_dataloader.batch_size': 24, 'default_hooks.checkpoint.by_epoch': False, **options})
        cfg.model.distiller = shipped('_base_/methods/mlkd.py').mlkd
        images = cfg.train_dataloader.dataset.to_dict()
        images['indices'] = None
        cfg.train_dataloader.dataset = dict(type='TwoViewDataset', strong=STRONG, dataset=images)
        if not in_memory:
            cfg.default_hooks.whole_batches.max_memory = 0
        for hook in ('export_student', 'distillation_report'):
            cfg.default_hooks.pop(hook)
        return cfg

    return make


def trained(run: Runner, stop: int | None = None) -> Seen:
    seen = Seen(stop)
    run.register_hook(seen)
    if stop is None:
        run.train()
        return seen
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.train_loop.dataloader.numbered.undo()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize('in_memory', [True, False])
def test_batches_and_epochs_count_images(in_memory: bool, config: Callable, runner: Callable) -> None:
    run = runner(config(in_memory, **{'default_hooks.logger.interval': 1}))
    seen = trained(run)
    assert [len(batch) for batch in seen.images()] == [48, 48, 32]
    assert [number_of_weak_views(batch['data_samples']) for batch in seen.batches] == [24, 24, 16]
    positions = [sample_indices(batch['data_samples']) for batch in seen.batches]
    assert all(each[: len(each) // 2] == each[len(each) // 2 :] for each in positions)
    assert sorted(index for each in positions for index in each) == sorted([*range(64)] * 2)
    assert (run.iter, run.epoch, len(run.train_dataloader.dataset)) == (3, 1, 64)
    assert ('64 training images are on cpu' in logged(run)) == in_memory
    assert 'distill.loss_mlkd' in logged(run)
    assert describe_images(run.train_dataloader) == '64, a weak and a strong view of each in a batch'


@pytest.mark.slow
@pytest.mark.parametrize('in_memory', [True, False])
def test_weak_views_are_those_of_a_run_with_one_view(in_memory: bool, config: Callable, runner: Callable) -> None:
    two = trained(runner(config(in_memory))).images()
    cfg = config(in_memory)
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.dataset
    cfg.model.distiller = dict(type='ICDDistiller')
    for both, one in zip(two, trained(runner(cfg)).images(), strict=True):
        assert torch.equal(both[: len(one)], one)


@pytest.mark.slow
@pytest.mark.parametrize(('in_memory', 'workers'), [(True, 0), (False, 0), (False, 1)])
def test_a_resumed_run_continues_exactly(
    in_memory: bool, workers: int, config: Callable, runner: Callable, tmp_path: Path
) -> None:
    """Stopped within an epoch."""

    def run_of(name: str, **options: Any) -> Runner:
        cfg = config(in_memory, **{'train_cfg.max_epochs': 2, 'train_dataloader.num_workers': workers, **options})
        cfg.work_dir = str(tmp_path / name)
        return runner(cfg)

    whole = trained(run_of('whole'))
    stopped = trained(run_of('stopped'), stop=4)
    resumed = trained(run_of('stopped', resume=True))
    views = [*stopped.images(), *resumed.images()]
    assert all(torch.equal(*pair) for pair in zip(whole.images(), views, strict=True))
    files = [Path((tmp_path / name / 'last_checkpoint').read_text()) for name in ('whole', 'stopped')]
    assert differences(*files) == []


@pytest.mark.slow
@pytest.mark.parametrize('views', ['all', 'first'])
def test_a_teacher_cache_is_not_used(views: str, config: Callable, runner: Callable) -> None:
    run = runner(config(**{'model.teacher_cache': dict(views=views)}))
    trained(run)
    assert 'teacher cache is not used: a batch of a TwoViewDataset has two views of each image' in logged(run)
    assert run.model.teacher_cache.asked == 0


@pytest.mark.slow
def test_fixed_views_are_refused(config: Callable, runner: Callable) -> None:
    run = runner(config(**{'model.teacher_cache': dict(views=2)}))
    with pytest.raises(SettingError, match=r'teacher_cache\.views=2: a batch of a TwoViewDataset has two views'):
        run.train()


def of_one_view(cfg: Config) -> None:
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.dataset


def repeated(cfg: Config) -> None:
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)


@pytest.mark.slow
@pytest.mark.parametrize(('change', 'dataset'), [(of_one_view, 'NPZDataset'), (repeated, 'RepeatDataset')])
def test_one_view_is_refused_before_the_training(
    change: Callable, dataset: str, config: Callable, runner: Callable
) -> None:
    cfg = config()
    change(cfg)
    run, seen = runner(cfg), Seen()
    run.register_hook(seen)
    with pytest.raises(SettingError, match=rf'MultiLevelLogitLoss \(.*loss_mlkd\).*\({dataset}\) gives one.*TwoView'):
        run.train()
    assert not seen.batches


@pytest.mark.slow
def test_other_losses_take_two_views_for_two_images(config: Callable, runner: Callable) -> None:
    """Those that remember images, too."""
    cfg = config()
    cfg.model.distiller = dict(
        type='MixedDistiller',
        distillers={name: shipped(f'_base_/methods/{name}.py')[name] for name in ('icd', 'crd', 'rrd', 'rkd')},
    )
    run = runner(cfg)
    seen = trained(run)
    assert [len(batch) for batch in seen.images()] == [48, 48, 32]
    assert torch.isfinite(run.model.architecture.head.fc.weight).all()


def test_runs_without_such_a_loss_are_not_looked_at() -> None:
    class Run:
        model, train_dataloader, val_loop = torch.nn.Linear(2, 2), object(), None

    ViewCheck().before_train(Run())


@pytest.mark.parametrize('split', ['val', 'test'])
def test_two_views_are_not_evaluated(split: str) -> None:
    class Views:
        views = 2

    class Loader:
        dataset = Views()

    run = type('Run', (), {f'{split}_dataloader': Loader()})()
    with pytest.raises(SettingError, match=f'{split}_dataloader.dataset is a TwoViewDataset'):
        getattr(ViewCheck(), f'before_{split}')(run)
