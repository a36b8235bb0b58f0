"""Numbered batches against the plain DataLoader's."""

import itertools
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from icd_mmrazor.datasets.loaders import MadeBatches, NumberedBatches, NumberedIndices, number_batches


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
    assert len(loader) == 3
    numbered.skip = trained % 3
    found = []
    for epoch in range(loop.epoch, number):
        sampler.set_epoch(epoch)
        for batch in loader:
            found.append(batch)
            # others draw random numbers, too
            torch.rand(loop.iter), np.random.random()  # noqa: NPY002
            loop.iter += 1
        loop.epoch += 1
    return found


def test_batches_depend_on_their_number_alone() -> None:
    whole = epochs(3)
    assert [len(batch) for batch in whole] == [4, 4, 2] * 3
    assert sorted(item[0] for batch in whole[:3] for item in batch) == [*range(10)]
    numbers = [number for batch in whole for _, *both in batch for number in both]
    assert len(set(numbers)) == len(numbers) == 60
    # with workers, which look ahead, and gone on in an epoch or between two
    assert epochs(3, num_workers=2, persistent_workers=True) == whole
    for trained in (1, 3, 5):
        assert epochs(3, trained) == whole[trained:]


@pytest.mark.slow
def test_datasets_that_prepare_batches_themselves_still_do() -> None:
    whole = epochs(1, dataset=NoisyInBatches())
    assert whole == [[(*item, 'at once') for item in batch] for batch in epochs(1)]


def test_numbers_reach_workers_that_are_started_anew() -> None:
    """Those get copies of the dataset and of the indices."""
    loader = DataLoader(Noisy(), batch_size=4, collate_fn=list)
    number_batches(loop_of(loader, 6), 5, 0)
    (indices, *_) = loader.batch_sampler
    dataset, copied = pickle.loads(pickle.dumps((loader.dataset, indices)))
    assert (copied, copied.number) == (indices, 6)
    assert dataset.__getitems__(copied) == loader.dataset.__getitems__(indices)


def test_the_order_of_a_sampler_without_a_seed() -> None:
    def order(epoch: int, rank: int) -> list[int]:
        dataset = Noisy()
        loader = DataLoader(dataset, batch_size=4, sampler=RandomSampler(dataset), collate_fn=list)
        number_batches(loop_of(loader, 3 * epoch, epoch), 5, rank)
        return [item[0] for batch in loader for item in batch]

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
def test_loops_that_count_iterations_go_on_where_they_were(endless: bool, iterator: type) -> None:
    def batches(trained: int, number: int) -> list[list[tuple]]:
        dataset = Noisy()
        sampler = (InfiniteSampler if endless else DefaultSampler)(dataset, shuffle=True, seed=1)
        loader = DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=list)
        # begun already, by mmengine 0.10.7
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


def test_a_loader_is_left_as_it_was() -> None:
    dataset = Noisy()
    loader = DataLoader(dataset, batch_size=4, collate_fn=list)
    before = dict(vars(loader))
    numbered = number_batches(loop_of(loader, 6), 5, 0)
    made = MadeBatches(loader, lambda indices: indices, in_cpu_memory=True)
    (first, *_) = loader
    assert isinstance(first, NumberedIndices)
    assert (first, first.number) == ([0, 1, 2, 3], 6)
    made.undo()
    numbered.undo()
    assert vars(loader) == before
    # random as always
    assert [*loader] != [*loader]


def test_other_loaders_are_left_alone() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    for loader in (DataLoader(Noisy(), batch_size=None), DataLoader(Stream()), [1, 2]):
        assert number_batches(loop_of(loader), 5, 0) is None
        assert not isinstance(getattr(loader, 'batch_sampler', None), NumberedBatches)


def test_persistent_workers_of_an_earlier_pass_are_not_asked() -> None:
    """mmengine 0.10.7 begins them with its loop, before a hook can number the batches."""
    loader = DataLoader(Noisy(), batch_size=4, collate_fn=list, num_workers=1, persistent_workers=True)
    iter(loader)
    numbered = number_batches(loop_of(loader), 5, 0)
    whole = [*loader]
    assert whole == [*loader]
    numbered.undo()
    number_batches(loop_of(loader, 1), 5, 0).skip = 1
    assert [*loader] == whole[1:]


class Counting(Dataset):
    """Items that say what the dataset was set to when they were prepared."""

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
    number_batches(loop, 5, 0)
    seen = []
    for i in range(9):
        seen.append(next(loop.dataloader_iterator)[0])
        loop.iter += 1
        if i == 2:
            dataset.setting = 7
    assert seen == [0] * 3 + [7] * 6


def test_what_is_set_on_the_batch_sampler_reaches_the_loaders_own() -> None:
    dataset = Noisy()
    loader = DataLoader(dataset, batch_size=4, collate_fn=list)
    numbered = number_batches(loop_of(loader), 5, 0)
    loader.batch_sampler.batch_size, loader.batch_sampler.drop_last = 3, True
    loader.batch_sampler.sampler = [5, 1, 8, 2]
    assert (loader.batch_sampler.batch_size, [*loader.batch_sampler]) == (3, [[5, 1, 8]])
    numbered.undo()
    assert [*loader.batch_sampler] == [[5, 1, 8]]
