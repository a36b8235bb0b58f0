"""Numbered batches against the plain DataLoader's."""

import itertools
import pickle
import random
from collections.abc import Iterator
from multiprocessing import active_children
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, get_worker_info

from icd_mmrazor.datasets.loaders import NumberedIndices, NumberedLoader, _RepeatableDataset, number_batches
from icd_mmrazor.datasets.randomness import EPOCH, IMAGES, ORDER, STEP, VALIDATION, seed_all


class Noisy(Dataset):
    """Ten items: each its place, and a random number of each library that transforms draw from."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float, float]:
        return index, np.random.random(), torch.rand(()).item()  # noqa: NPY002


class NoisyInBatches(Noisy):
    """One that prepares whole batches by itself."""

    def __getitems__(self, indices: list[int]) -> list[tuple]:
        return [(*self[index], 'at once') for index in indices]


def loop_of(loader: DataLoader, iteration: int = 0, epoch: int = 0, **settings: Any) -> SimpleNamespace:
    return SimpleNamespace(dataloader=loader, iter=iteration, epoch=epoch, **settings)


def epochs(number: int, trained: int = 0, dataset: Dataset | None = None, **settings: Any) -> list[list[tuple]]:
    """Return the batches of several epochs of three, after some of them that were trained before."""
    dataset = dataset or Noisy()
    sampler = DefaultSampler(dataset, shuffle=True, seed=1)
    loader = DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=list, **settings)
    loop = loop_of(loader, trained, trained // 3)
    numbered = number_batches(loop, 5, 0)
    assert number_batches(loop, 5, 0) is numbered
    assert len(loop.dataloader) == len(numbered) == 3
    numbered.skip = trained % 3
    found = []
    for epoch in range(loop.epoch, number):
        sampler.set_epoch(epoch)
        for batch in loop.dataloader:
            found.append(batch)
            # others draw random numbers, too
            torch.rand(loop.iter), np.random.random()  # noqa: NPY002
            loop.iter += 1
        loop.epoch += 1
    numbered.undo()
    return found


def test_batches_depend_on_their_number_alone() -> None:
    whole = epochs(3)
    assert [len(batch) for batch in whole] == [4, 4, 2] * 3
    assert sorted(item[0] for batch in whole[:3] for item in batch) == [*range(10)]
    numbers = [number for batch in whole for _, *both in batch for number in both]
    assert len(set(numbers)) == len(numbers) == 60
    # with workers, which look ahead; continued within an epoch, and between two
    assert epochs(3, num_workers=2, persistent_workers=True) == whole
    for trained in (1, 3, 5):
        assert epochs(3, trained) == whole[trained:]


def test_datasets_that_prepare_batches_themselves_still_do() -> None:
    whole = epochs(1, dataset=NoisyInBatches())
    assert whole == [[(*item, 'at once') for item in batch] for batch in epochs(1)]


def test_spawned_workers_give_the_same() -> None:
    """They get pickled copies of the dataset and of the indices."""
    dataset = _RepeatableDataset(Noisy(), (5, 0))
    copied, indices = pickle.loads(pickle.dumps((dataset, NumberedIndices([3, 1], 6))))
    assert (indices, indices.number) == ([3, 1], 6)
    assert copied.__getitems__(indices) == dataset.__getitems__(indices)


class Lazy(Noisy):
    """Items from a file that each worker opens."""

    file = None

    def __getitem__(self, index: int) -> tuple[int, str]:
        return index, self.file


def open_file(worker: int) -> None:
    dataset = get_worker_info().dataset
    dataset.file = f'worker {worker} of {len(dataset)} items: {dataset.file}'


def test_workers_are_initialised_with_the_dataset() -> None:
    batches = epochs(1, dataset=Lazy(), num_workers=1, worker_init_fn=open_file)
    assert {file for batch in batches for _, file in batch} == {'worker 0 of 10 items: None'}


def test_the_order_of_a_sampler_without_a_seed() -> None:
    def order(epoch: int, rank: int) -> list[int]:
        dataset = Noisy()
        loader = DataLoader(dataset, batch_size=4, sampler=RandomSampler(dataset), collate_fn=list)
        loop = loop_of(loader, 3 * epoch, epoch)
        number_batches(loop, 5, rank)
        return [item[0] for batch in loop.dataloader for item in batch]

    assert order(1, 0) == order(1, 0) != order(2, 0)
    # processes that take their part of a common order share it
    assert order(1, 1) == order(1, 0)


class Passing:
    """As mmengine 0.10.7 makes its iterator: asked for each of the batches that were trained."""


class Skipping(Passing):
    """As onedl-mmengine: told at once."""

    def skip_iter(self, num_iters: int) -> None:
        raise AssertionError


@pytest.mark.parametrize('iterator', [Passing, Skipping])
@pytest.mark.parametrize('endless', [True, False])
def test_loops_that_count_iterations_continue_where_they_were(endless: bool, iterator: type) -> None:
    def batches(trained: int, number: int) -> list[list[tuple]]:
        dataset = Noisy()
        sampler = (InfiniteSampler if endless else DefaultSampler)(dataset, shuffle=True, seed=1)
        loader = DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=list)
        # started already, by mmengine 0.10.7
        next(iter(loader))
        loop = loop_of(loader, trained, dataloader_iterator=iterator())
        number_batches(loop, 5, 0)
        if iterator is Skipping and trained:
            loop.dataloader_iterator.skip_iter(trained)
        elif trained:
            assert [next(loop.dataloader_iterator) for _ in range(trained)] == [None] * trained
        found = []
        for _ in range(number):
            found.append(next(loop.dataloader_iterator))
            loop.iter += 1
        return found

    whole = batches(0, 8)
    places = [item[0] for batch in whole for item in batch]
    sampler = DefaultSampler(Noisy(), shuffle=True, seed=1)
    if not endless:
        assert [len(batch) for batch in whole] == [4, 4, 2, 4, 4, 2, 4, 4]
        sampler.set_epoch(1)
        assert places[10:20] == list(sampler)
    else:
        assert places == list(itertools.islice(InfiniteSampler(Noisy(), shuffle=True, seed=1).indices, 32))
    for trained in (1, 3, 7):
        assert batches(trained, 8 - trained) == whole[trained:]


def test_the_loader_is_put_back() -> None:
    loader = DataLoader(Noisy(), batch_size=4, collate_fn=list)
    before, loop = dict(vars(loader)), loop_of(loader, 6)
    numbered = number_batches(loop, 5, 0)
    assert loop.dataloader is numbered.loader is not loader
    (first, *_) = numbered
    assert isinstance(first, NumberedIndices)
    assert (first, first.number) == ([0, 1, 2, 3], 6)
    numbered.undo()
    assert loop.dataloader is loader
    assert vars(loader) == before
    assert vars(loader.dataset) == {}
    # random as always
    assert [*loader] != [*loader]
    # not in place of one that a hook has put there
    numbered, loop.dataloader = number_batches(loop, 5, 0), [1, 2]
    numbered.undo()
    assert loop.dataloader == [1, 2]


class Backwards(DataLoader):
    """One that yields its batches in its own way."""

    def __iter__(self) -> Iterator[Any]:
        return reversed([*super().__iter__()])


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


@pytest.mark.parametrize(
    'loader',
    [DataLoader(Noisy(), batch_size=None), DataLoader(Stream()), Backwards(Noisy()), [1, 2]],
    ids=['no batches', 'stream', 'subclass', 'list'],
)
def test_other_loaders_are_left_alone(loader: Any) -> None:
    loop = loop_of(loader)
    assert number_batches(loop, 5, 0) is None
    assert loop.dataloader is loader


def test_persistent_workers_of_an_earlier_pass_are_not_asked() -> None:
    """mmengine 0.10.7 starts them with its loop, before a hook can number the batches."""
    loader = DataLoader(Noisy(), batch_size=4, collate_fn=list, num_workers=1, persistent_workers=True)
    iter(loader)
    loop = loop_of(loader)
    numbered = number_batches(loop, 5, 0)
    whole = [*loop.dataloader]
    workers = active_children()
    assert whole == [*loop.dataloader]
    assert active_children() == workers
    # as SwitchRecipeHook restarts them
    loop.dataloader._iterator = None
    assert whole == [*loop.dataloader]
    assert active_children() != workers
    numbered.undo()
    loop.iter = 1
    numbered = number_batches(loop, 5, 0)
    numbered.skip = 1
    assert [*loop.dataloader] == whole[1:]
    numbered.undo()


class Counting(Dataset):
    """Items with the setting of the dataset at the time they were prepared."""

    setting = 0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        return self.setting


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_workers_of_a_loop_that_counts_iterations_see_changes_with_the_next_pass(workers: int) -> None:
    dataset = Counting()
    loader = DataLoader(dataset, batch_size=2, sampler=DefaultSampler(dataset), collate_fn=list, num_workers=workers)
    loop = loop_of(loader, dataloader_iterator=Passing())
    numbered, others = number_batches(loop, 5, 0), set(active_children())
    seen = []
    for i in range(9):
        seen.append(next(loop.dataloader_iterator)[0])
        loop.iter += 1
        if i == 2:
            dataset.setting = 7
    assert seen == [0] * 3 + [7] * 6
    assert len({*active_children()} - others) == workers
    numbered.undo()
    assert not {*active_children()} - others


@pytest.mark.parametrize('custom', [False, True])
def test_the_loader_has_the_settings_of_the_one_it_stands_for(custom: bool) -> None:
    dataset = Noisy()
    sampler = DefaultSampler(dataset, shuffle=True, seed=3)
    batches = BatchSampler(sampler, 4, drop_last=True)
    order = dict(batch_sampler=batches) if custom else dict(batch_size=4, sampler=sampler, drop_last=True)
    loader = DataLoader(dataset, collate_fn=list, num_workers=2, timeout=60, prefetch_factor=3, **order)
    numbered = number_batches(loop_of(loader), 5, 0)
    for name in ('dataset', 'collate_fn', 'num_workers', 'timeout', 'prefetch_factor', 'batch_size', 'drop_last'):
        assert getattr(numbered.loader, name) == getattr(loader, name), name
    assert numbered.sampler is sampler
    assert [[*indices] for indices in numbered] == [*batches]
    # hooks change it there, or where they have found it before
    numbered.loader.num_workers = 0
    loader.batch_sampler.batch_size = 3
    assert [len(batch) for batch in numbered.loader] == [3, 3, 3]
    assert loader.num_workers == 2


def test_batches_made_at_once_need_no_workers() -> None:
    loop = loop_of(DataLoader(Noisy(), batch_size=4, collate_fn=list, num_workers=2))
    number_batches(loop, 5, 0)
    one_by_one = [*loop.dataloader]

    def make(indices: NumberedIndices) -> list[int] | None:
        if indices.number == 1:  # from here on image by image
            loop.dataloader.make = None
            return None
        return [*indices, indices.number]

    loop.dataloader.make = make
    workers, batches = active_children(), iter(loop.dataloader)
    assert next(batches) == [0, 1, 2, 3, 0]
    assert active_children() == workers
    assert [*batches] == one_by_one[1:]
    assert isinstance(loop.dataloader, NumberedLoader)


def drawn(*key: int) -> tuple[float, float, float]:
    seed_all(*key)
    return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002


def test_everything_follows_from_the_key() -> None:
    first = drawn(3, 0, 7, STEP)
    drawn(5, 0, 7, STEP)
    assert drawn(3, 0, 7, STEP) == first


def test_keys_that_differ_in_one_number_share_nothing() -> None:
    keys = [(3, 0, 7, purpose) for purpose in (EPOCH, ORDER, IMAGES, STEP, VALIDATION)]
    keys += [(4, 0, 7, STEP), (3, 1, 7, STEP), (3, 0, 8, STEP), (0, 0, 0, STEP), (2**32 - 1, 0, 10**9, STEP)]
    for numbers in zip(*(drawn(*key) for key in keys), strict=True):
        assert len(set(numbers)) == len(keys)


@pytest.mark.gpu
def test_a_gpu_is_seeded_without_synchronisation() -> None:
    torch.zeros(1, device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        seed_all(1, 0, 2, STEP)
        first = torch.rand(4, device='cuda')
        seed_all(1, 0, 2, STEP)
        second = torch.rand(4, device='cuda')
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert torch.equal(first, second)
