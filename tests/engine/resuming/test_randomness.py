"""What the hook writes into checkpoints and makes of them; test_exact_resume.py has the runs."""

from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch.utils.data import DataLoader

from icd_mmrazor.engine.resuming import Randomness


@pytest.fixture
def begun() -> Callable:
    """A hook in a run of batches of one of six images, with what it has logged."""

    def begin(
        meta: object = None, epoch: int = 0, iteration: int = 0, images: int = 6, **wrapper: int
    ) -> tuple[Randomness, mock.Mock]:
        dataset = list(range(images))
        dataset = torch.utils.data.TensorDataset(torch.tensor(dataset))
        loader = DataLoader(dataset, sampler=DefaultSampler(dataset, shuffle=True, seed=1))
        loop = SimpleNamespace(dataloader=loader, epoch=epoch, iter=iteration)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        run = mock.Mock(seed=2, epoch=epoch, iter=iteration, train_loop=loop, train_dataloader=loader, _resume=True)
        run.optim_wrapper = OptimWrapper(optimizer, **wrapper)
        hook = Randomness()
        hook.before_run(run)
        if meta is not None:
            hook.after_load_checkpoint(run, {'meta': meta})
        hook.before_train(run)
        run.train_dataloader = loop.dataloader
        return hook, run

    return begin


def saved(hook: Randomness, run: mock.Mock, epoch: int, iteration: int) -> dict:
    checkpoint = {'meta': dict(epoch=epoch, iter=iteration)}
    hook.before_save_checkpoint(run, checkpoint)
    return checkpoint['meta']


def test_a_checkpoint_says_where_in_the_data_it_is(begun: Callable) -> None:
    hook, run = begun(epoch=2, iteration=12)
    hook.before_train_epoch(run)
    # after an iteration, and at the end of the epoch
    meta = saved(hook, run, 2, 15)
    assert meta == dict(epoch=2, iter=15, sampler_seed=1, batches_of_epoch=6, trained_of_epoch=3)
    assert saved(hook, run, 3, 18)['trained_of_epoch'] == 0
    # another run begins there, with the order of that one, and its own checkpoints count on
    hook, run = begun({**meta, 'sampler_seed': 8}, epoch=2, iteration=15)
    assert run.train_dataloader.sampler.seed == 8
    assert run.train_dataloader.numbered.skip == 3
    assert not run.logger.warning.called
    hook.before_train_epoch(run)
    assert len([*run.train_dataloader]) == 3
    assert len([*run.train_dataloader]) == 6
    assert saved(hook, run, 2, 16)['trained_of_epoch'] == 4
    hook.after_train(run)
    assert type(run.train_loop.dataloader) is DataLoader


def test_another_number_of_batches_restarts_the_epoch(begun: Callable) -> None:
    meta = dict(sampler_seed=1, batches_of_epoch=6, trained_of_epoch=3)
    _, run = begun(meta, epoch=2, iteration=15, images=5)
    assert run.train_dataloader.numbered.skip == 0
    (message,) = run.logger.warning.call_args.args
    assert 'after 3 of the 6 batches of epoch 3, which has 5 now' in message
    # between epochs nothing is lost
    _, run = begun({**meta, 'trained_of_epoch': 0}, epoch=2, iteration=12, images=5)
    assert not run.logger.warning.called


@pytest.mark.parametrize(
    'meta', [None, 'text', {}, dict(sampler_seed='1', trained_of_epoch=[3], batches_of_epoch=True)]
)
def test_checkpoints_of_another_origin(meta: object, begun: Callable) -> None:
    _, run = begun(meta, epoch=2, iteration=15)
    assert run.train_dataloader.sampler.seed == 1
    assert run.train_dataloader.numbered.skip == 0


def test_gradients_that_are_not_saved_are_named_once(begun: Callable) -> None:
    hook, run = begun(accumulative_counts=4)
    run.optim_wrapper._inner_count = 8
    saved(hook, run, 0, 8)
    assert not run.logger.warning.called
    run.optim_wrapper._inner_count = 11
    run.optim_wrapper = OptimWrapperDict(one=run.optim_wrapper)
    for _ in range(2):
        saved(hook, run, 0, 11)
    ((message,),) = (call.args for call in run.logger.warning.call_args_list)
    assert 'the gradients of the last 3 of optim_wrapper.accumulative_counts=4 batches' in message


def test_other_loaders_are_named(begun: Callable) -> None:
    hook, run = begun()
    hook.after_train(run)
    run.train_loop.dataloader = [1, 2]
    hook.before_train(run)
    assert 'by their indices' in run.logger.warning.call_args.args[0]
    assert saved(hook, run, 0, 1) == dict(epoch=0, iter=1)
    hook.after_train(run)
