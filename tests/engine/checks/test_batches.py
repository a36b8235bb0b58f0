"""Batches that no run can train with, in one process and in three."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from launches import in_processes
from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import DataLoader, IterableDataset

from icd_mmrazor.engine.checks import BatchCheck
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models import ICDLoss

BATCH_SIZE, IMAGES = 'train_dataloader.batch_size', 'train_dataloader.dataset.indices'
CROP = 'train_dataloader.dataset.pipeline.0.crop_size'


def test_no_batch(demo_config: Callable, runner: Callable) -> None:
    run = runner(demo_config(**{IMAGES: 7, BATCH_SIZE: 8, 'train_dataloader.drop_last': True}))
    with pytest.raises(SettingError, match=r'7 images .* give no batch of batch_size=8 with drop_last=True'):
        run.train()


class Stream(IterableDataset):
    """Images that only come in their own order."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(7))

    def __len__(self) -> int:
        return 7


def test_a_stream_of_images_is_left_alone() -> None:
    BatchCheck().before_train(SimpleNamespace(train_dataloader=DataLoader(Stream(), batch_size=3)))


@pytest.mark.slow
def test_images_without_others_to_compare_with(demo_config: Callable, runner: Callable) -> None:
    run = runner(demo_config(**{IMAGES: 4, BATCH_SIZE: 1}))
    with pytest.raises(SettingError, match=r'batch_size=1: each .* ICDLoss \(distiller.*\) .* gather_distributed'):
        run.train()
    # in a loop that counts iterations, too
    endless = {'train_dataloader.sampler.type': 'InfiniteSampler'}
    cfg = demo_config(**{IMAGES: 4, BATCH_SIZE: 1}, **endless)
    cfg.train_cfg = dict(by_epoch=False, max_iters=2)
    with pytest.raises(SettingError, match=r'batch_size=1: each '):
        runner(cfg).train()
    # a student alone has nothing to compare
    runner(demo_config('res8_digits', **{IMAGES: 4, BATCH_SIZE: 1})).train()


@pytest.mark.parametrize('views', [1, 2])
def test_two_views_of_one_image_can_be_compared(views: int) -> None:
    images = mock.MagicMock(views=views)
    images.__len__.return_value = 4
    run = SimpleNamespace(train_dataloader=DataLoader(images, batch_size=1), model=ICDLoss())
    with contextlib.nullcontext() if views == 2 else pytest.raises(SettingError, match='would always be 0'):
        BatchCheck().before_train(run)


@pytest.mark.slow
def test_a_last_batch_of_one_image(demo_config: Callable, runner: Callable) -> None:
    """Images of 4 x 4 are 1 x 1 in the last stage, and a batch norm cannot normalize one value per channel."""
    run = runner(demo_config(**{IMAGES: 5, BATCH_SIZE: 4, CROP: 4}))
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        run.train()
    (file,) = Path(run.work_dir).glob('*/*.log')
    assert 'drop_last=True' in file.read_text()
    runner(demo_config(**{IMAGES: 5, BATCH_SIZE: 4, CROP: 4, 'train_dataloader.drop_last': True})).train()


def trained(rank: int, configs: dict[str, Config]) -> dict[str, str | float]:
    """Train each config in turn; return the error of each, or the accuracy."""
    results = {}
    for name, cfg in configs.items():
        cfg.experiment_name = name
        run = Runner.from_cfg(cfg)
        try:
            run.train()
        except SettingError as error:
            results[name] = str(error)
        else:
            results[name] = float(run.message_hub.get_scalar('val/accuracy/top1').current())
    return results


@pytest.mark.slow
def test_three_processes(demo_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # mmengine collects results in the working folder
    cases = {
        'fewer images than processes': {IMAGES: 2},
        'one batch more': {IMAGES: 4, BATCH_SIZE: 1, 'train_dataloader.sampler.round_up': False},
        'nothing to compare': {IMAGES: 3},
        'unequal batches': {
            IMAGES: 4,
            'train_dataloader.sampler.round_up': False,
            'model.distiller.icd.gather_distributed': True,
            'val_dataloader.dataset.indices': 2,
        },
    }
    configs = {}
    for name, options in cases.items():
        cfg = demo_config(**options)
        cfg.work_dir = str(tmp_path / name)
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
        configs[name] = cfg
    first, *others = in_processes(trained, 3, tmp_path, configs)
    assert first['fewer images than processes'].startswith('train_dataloader.dataset has 2 images for 3 processes.')
    assert 'gives the 3 processes [2, 1, 1] batches' in first['one batch more']
    assert 'round_up=True' in first['one batch more']
    assert 'each batch of a process is one image' in first['nothing to compare']
    # two images in three processes: each is counted once
    assert first['unequal batches'] in (0.0, 50.0, 100.0)
    assert others == [first, first]
