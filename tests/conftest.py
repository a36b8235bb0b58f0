"""Fixtures of all tests: small real data, networks with weights on disk, real runners."""

import gc
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from icd_mmrazor import compat  # first: mmengine.runner imports OpenCV, which it sets a limit for

# isort: split
import numpy as np
import pytest
import torch
from helpers import DATA, shipped
from hypothesis import HealthCheck, settings
from machines import cannot_have_machines
from mmengine.config import Config
from mmengine.dataset import base_dataset
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from slurm import cannot_have_slurm

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.launch.run_config import use_intact_checkpoints
from icd_mmrazor.launch.runner import ToolRunner

# the same examples in every run, however slow the machine is; nothing is stored
settings.register_profile(
    'tests',
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile('tests')


# tests in these folders go through the OpenMMLab packages, of which there are two families
STACK = (
    'compat',
    'datasets',
    'engine',
    'models/algorithms',
    'models/classifiers',
    'models/distillers',
    'models/networks',
)
# of their slow tests, those that depend on the family most; all would make the second family's run three times as long
STACK_SLOW = ('compat', 'engine/resuming')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what depends on the stack or needs a cluster, and skip what this machine cannot run."""
    tests = Path(__file__).parent
    no_gpu = pytest.mark.skip(reason='needs a GPU')
    no_cluster = cannot_have_machines() or cannot_have_slurm()
    for item in items:
        folder = item.path.parent.relative_to(tests)
        if folder.is_relative_to('cluster'):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.skipif(bool(no_cluster), reason=no_cluster))
        rooms = STACK_SLOW if item.get_closest_marker('slow') else STACK
        if any(folder.is_relative_to(room) for room in rooms):
            item.add_marker(pytest.mark.stack)
        if item.get_closest_marker('gpu') and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture(scope='session', autouse=True)
def _away_from_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run in an empty folder: tools and configs look in the working folder, and a checkout may hold data and runs."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp('working_folder'))
    yield
    os.chdir(before)


@pytest.fixture(scope='session', autouse=True)
def _as_in_our_tools() -> None:
    """Let runs behave as those of our tools; what a plain import does is tested in processes of their own."""
    compat.runtime()
    gc.freeze()
    # mmengine collects garbage for each dataset that it builds: in a process of thousands of tests, half a second
    base_dataset.gc = SimpleNamespace(collect=lambda: 0)


@pytest.fixture(scope='session', autouse=True)
def _autograd_without_threads() -> None:
    """Let tests fork, in whatever order they run.

    Autograd decides on its threads in the first backward pass. If an export has simulated a GPU before, it starts some,
    and no backward pass is possible in a forked process.
    """
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(_away_from_the_checkout: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _mmrazor_scope(request: pytest.FixtureRequest) -> None:
    """Build as a run with one of our configs does, whatever the scope of the last test's run was."""
    scope = DefaultScope.get_current_instance()
    if scope is None or scope.scope_name != 'mmpretrain':
        DefaultScope.get_instance(request.node.nodeid, scope_name='mmpretrain')


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Let no test depend on those before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def architectures() -> dict[str, dict]:
    """The published networks: parameters, feature shapes, tensors."""
    return json.loads((DATA / 'repdistiller_architectures.json').read_text())


@pytest.fixture
def network() -> Callable[..., dict]:
    """Return the config of a network by its name in ``configs/_base_/models``."""

    def config(name: str, num_classes: int = 10) -> dict:
        cfg = shipped(f'_base_/models/{name}.py')[name.replace('-', '_')]
        cfg.head.num_classes = num_classes
        return cfg

    return config


@pytest.fixture
def teacher_file(network: Callable[..., dict], tmp_path: Path) -> Callable[..., str]:
    """Write seeded random weights of a network, in eval mode neither dead nor exploding, and return the file."""

    def write(name: str, num_classes: int = 10) -> str:
        file = tmp_path / f'{name}_{num_classes}.pth'
        # a run that is resumed has the same teacher
        if not file.is_file():
            torch.save({'state_dict': MODELS.build(network(name, num_classes)).state_dict()}, file)
        return str(file)

    return write


@pytest.fixture
def batch() -> Callable[..., tuple[torch.Tensor, list[DataSample]]]:
    """Return seeded images and their data samples."""

    def make(size: int = 6, num_classes: int = 10) -> tuple[torch.Tensor, list[DataSample]]:
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(size, 3, 32, 32, generator=generator)
        return images, [DataSample().set_gt_label(i % num_classes) for i in range(size)]

    return make


@pytest.fixture
def images_file(tmp_path: Path) -> Path:
    """Write a small classification problem, squares of ten brightnesses, as the digits' file is laid out."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, size in (('train', 64), ('test', 40)):
        labels = np.arange(size) % 10
        images = generator.integers(0, 60, (size, 16, 16), dtype=np.uint8)
        images[:, 4:12, 4:12] += (labels * 19).astype(np.uint8)[:, None, None]
        arrays |= {f'{split}_images': images, f'{split}_labels': labels}
    file = tmp_path / 'images.npz'
    np.savez(file, **arrays)
    return file


@pytest.fixture
def demo_config(images_file: Path, teacher_file: Callable[..., str], tmp_path: Path) -> Callable[..., Config]:
    """Return a config of ``configs/demo`` on the small problem, with an 8-layer teacher of random weights."""

    def config(name: str = 'icd_res20_res8_digits', **options: object) -> Config:
        cfg = shipped(f'demo/{name}.py')
        cfg.work_dir = str(tmp_path / 'work')
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset.data_file = str(images_file)
        if 'teacher' in cfg.model:
            cfg.model.teacher_ckpt = teacher_file('res20')
        settings = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'randomness.seed': 0}
        cfg.merge_from_dict({**settings, **options})
        return cfg

    return config


@pytest.fixture
def runner(request: pytest.FixtureRequest) -> Callable[[Config], Runner]:
    """Build a real runner as our tools do; each has its own name, which mmengine keeps its logger under."""
    count = iter(range(1000))

    def build(cfg: Config) -> Runner:
        cfg.experiment_name = f'{request.node.name}_{next(count)}'
        use_intact_checkpoints(cfg)
        with explained_settings():
            return ToolRunner.from_cfg(cfg)

    return build
