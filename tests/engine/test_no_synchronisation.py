"""An iteration that does not log asks the device for nothing.

On a GPU torch itself says so. On a CPU, where asking costs nothing, everything is recorded that would wait for a GPU:
Python numbers made of tensors, and operations whose result has a size that depends on values.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import methods_of_views, two_views
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.utils import apply_to
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from icd_mmrazor import recipes
from icd_mmrazor.models.losses import ContrastiveRepresentationLoss

# of 8 in an epoch; the last one is always passed on
INTERVAL = 3
QUIET = (0, 1, 3, 4, 6)
NUMBERS = {'item', 'tolist', 'numpy', 'cpu', '__bool__', '__int__', '__float__', '__index__', '__array__'}
OPERATIONS = {
    '_local_scalar_dense', 'equal', 'masked_select', 'nonzero', 'nonzero_numpy', '_unique2', 'unique_dim',
    'unique_consecutive', 'repeat_interleave',
}  # fmt: skip


class Requests(TorchDispatchMode):
    """Record what would wait for a GPU, in operations of torch."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        # indexing with a mask looks for what is set in it
        masks = name in ('index', 'index_put', 'index_put_') and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in OPERATIONS or masks:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Record what would wait for a GPU, in calls from Python."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, '__name__', '')
        if name in NUMBERS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """Fill a list with what is asked inside."""
    found: list[str] = []
    with Requests(found), Calls(found):
        yield found


def trained(run: Runner) -> dict[int, list[str]]:
    """Train a run; return what was asked in each iteration."""
    found: dict[int, list[str]] = {}
    run_iter = EpochBasedTrainLoop.run_iter

    def watched(loop: EpochBasedTrainLoop, index: int, batch: Any) -> None:
        with recorded() as found[loop.iter]:
            run_iter(loop, index, batch)

    with mock.patch.object(EpochBasedTrainLoop, 'run_iter', watched):
        run.train()
    return found


@pytest.fixture
def unvalidated(short_batches: Callable) -> Callable[..., Config]:
    """A config that is trained alone, with batches as the tools set them."""

    def config(name: str = 'icd-kd_res20_res8_digits', **options: object) -> Config:
        never = dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
        cfg = short_batches(name, **{'default_hooks.logger.interval': INTERVAL, **never, **options})
        cfg.train_dataloader.collate_fn = dict(type='default_collate')
        return cfg

    return config


def test_icd_with_kd(unvalidated: Callable, runner: Callable) -> None:
    found = trained(runner(unvalidated()))
    # the first iteration prepares the teacher
    assert [found[i] for i in QUIET[1:]] == [[]] * len(QUIET[1:])
    # one copy for all numbers of three iterations
    assert [found[i] for i in (2, 5)] == [['tolist']] * 2


def test_stored_outputs_of_the_teacher(unvalidated: Callable, runner: Callable, tmp_path: Path) -> None:
    options = {'model.teacher_cache.path': str(tmp_path / 'outputs')}
    trained(runner(unvalidated(**options)))
    run = runner(unvalidated(**options))
    found = trained(run)
    # in the first iteration what is stored is verified
    assert [found[i] for i in QUIET[1:]] == [[]] * len(QUIET[1:])
    assert 0 < run.model.teacher_cache.computed < run.model.teacher_cache.asked


@pytest.mark.parametrize(('stage', 'views'), [('initial', 1), ('main', 1), ('main', 2)])
def test_every_other_method(stage: str, views: int) -> None:
    """All together that take as many views of an image, the step alone."""
    methods = [name for name in methods_of_views(views) if name not in ('icd', 'vitkd')]
    cfg = recipes.compose('res20_res8_digits', methods)
    cfg.model.update(teacher_ckpt=None, random_teacher=True, data_preprocessor=cfg.data_preprocessor)
    model = MODELS.build(cfg.model).train()
    model.distiller.set_stage(stage)
    model.distiller.set_progress(epoch=0, iteration=0)
    for module in model.modules():
        if hasattr(module, 'set_dataset'):
            module.set_dataset(torch.arange(40) % 10)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    asked = {}
    # the first step prepares the teacher
    for step in range(2):
        samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i % 10) for i in range(8)]
        samples = samples if views == 1 else two_views(samples)
        images = torch.randint(0, 256, (len(samples), 3, 16, 16), dtype=torch.uint8)
        batch = dict(inputs=images, data_samples=samples)
        with recorded() as asked[step]:
            numbers = model.train_step(batch, wrapper)
    assert len(numbers) > (2 if views == 2 else 5 if stage == 'initial' else 15)
    assert asked[1] == []


@pytest.mark.parametrize('num_negatives', [30, 34, 40], ids=['without repeats', 'mixed', 'with repeats'])
def test_negatives_of_crd(num_negatives: int) -> None:
    loss = ContrastiveRepresentationLoss(num_negatives, embed_dims=4)
    # 40 images; classes of 8 and of 2: 32 or 38 images of others
    loss.set_dataset(torch.tensor([0] * 8 + [1 + i // 2 for i in range(32)]))
    samples = [DataSample(metainfo=dict(sample_idx=i)) for i in range(0, 40, 5)]
    features = torch.randn(2, 8, 4)
    for _ in range(2):
        with recorded() as asked:
            loss(*features, samples)
        assert asked == []


def test_mmengines_hook_asks_in_every_iteration(unvalidated: Callable, runner: Callable) -> None:
    """What is recorded is recorded."""
    cfg = unvalidated('res8_digits')
    cfg.default_hooks.runtime_info = dict(type='RuntimeInfoHook')
    found = trained(runner(cfg))
    assert all({'item', '_local_scalar_dense'} <= {*found[i]} for i in QUIET)


@pytest.fixture
def errors_of_synchronisations() -> Iterator[Callable[[str], None]]:
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode('default')


@pytest.mark.gpu
def test_on_a_gpu(unvalidated: Callable, runner: Callable, errors_of_synchronisations: Callable) -> None:
    cfg = unvalidated(**{'train_cfg.max_epochs': 2})
    cfg.default_hooks.runtime_info = dict(type='DeferredRuntimeInfoHook')
    run_iter = EpochBasedTrainLoop.run_iter

    def watched(loop: EpochBasedTrainLoop, index: int, batch: Any) -> None:
        # mmpretrain's data preprocessor waits for its copies to the device, so they are there before
        batch = apply_to(batch, lambda x: isinstance(x, Tensor), lambda x: x.cuda())
        batch['data_samples'] = [sample.cuda() for sample in batch['data_samples']]
        # the first epoch tries algorithms
        errors_of_synchronisations('error' if loop.epoch == 1 and index in QUIET else 'default')
        run_iter(loop, index, batch)
        errors_of_synchronisations('default')

    with mock.patch.object(EpochBasedTrainLoop, 'run_iter', watched):
        runner(cfg).train()
