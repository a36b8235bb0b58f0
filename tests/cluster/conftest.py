"""A small problem for trainings on several machines, and one on this machine to compare with."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TOOLS, shipped
from launches import Launch
from mmengine.config import Config
from mmrazor.registry import MODELS
from slurm import Slurm

EPOCHS = 10


@pytest.fixture(scope='session', autouse=True)
def _this_interpreter() -> Iterator[None]:
    """Let scripts find the Python that runs the tests, and use one core for each process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PATH', str(Path(sys.executable).parent), prepend=os.pathsep)
        patch.setenv('OMP_NUM_THREADS', '1')
        yield


@pytest.fixture(scope='session')
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp('slurm'), warm=True) as cluster:
        yield cluster


@pytest.fixture(scope='session')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a config of the demo on 320 small images, with a teacher of random weights."""
    folder = tmp_path_factory.mktemp('problem')
    generator, arrays = np.random.default_rng(0), {}
    for split, size in (('train', 320), ('test', 40)):
        labels = np.arange(size) % 10
        images = generator.integers(0, 60, (size, 16, 16), dtype=np.uint8)
        images[:, 4:12, 4:12] += (labels * 19).astype(np.uint8)[:, None, None]
        arrays |= {f'{split}_images': images, f'{split}_labels': labels}
    np.savez(folder / 'images.npz', **arrays)
    teacher = shipped('_base_/models/res20.py')['res20']
    teacher.head.num_classes = 10
    torch.manual_seed(0)
    weights = MODELS.build({'_scope_': 'mmpretrain', **teacher}).state_dict()
    torch.save({'state_dict': weights}, folder / 'teacher.pth')
    cfg = shipped('demo/icd-kd_res20_res8_digits.py')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_file = str(folder / 'images.npz')
    cfg.model.teacher_ckpt = str(folder / 'teacher.pth')
    # 20 iterations an epoch in two processes
    options = {'train_dataloader.batch_size': 8, 'default_hooks.logger.interval': 5, 'randomness.seed': 0}
    cfg.merge_from_dict({'train_cfg.max_epochs': EPOCHS, 'train_cfg.val_interval': 5, **options})
    cfg.train_dataloader.dataset.indices = None
    cfg.dump(folder / 'config.py')
    return folder / 'config.py'


@pytest.fixture(scope='session')
def longer(config: Path) -> Path:
    """Write the same for a training that a test ends, with a timeout of 8 seconds."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'train_cfg.max_epochs': 500, 'train_cfg.val_interval': 500, 'env_cfg.dist_cfg.timeout': 8})
    cfg.dump(config.with_name('longer.py'))
    return config.with_name('longer.py')


@pytest.fixture(scope='session')
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Return the weights after a training in two processes on one machine, with nothing that disturbs it."""
    work_dir = tmp_path_factory.mktemp('undisturbed')
    training = Launch(work_dir / 'log', 2, TOOLS / 'train.py', config, '--work-dir', work_dir)
    assert training.wait(120) == 0, training.log.read_text()
    return weights_in(work_dir)


def weights_in(work_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(work_dir / f'epoch_{EPOCHS}.pth', weights_only=True)['state_dict']


@pytest.fixture
def ends_as_trained(trained: dict[str, torch.Tensor]) -> Callable[[Path], bool]:
    """Return whether a work folder has the weights of the undisturbed training, bit for bit."""

    def same(work_dir: Path) -> bool:
        weights = weights_in(work_dir)
        return weights.keys() == trained.keys() and all(torch.equal(weights[name], trained[name]) for name in trained)

    return same
