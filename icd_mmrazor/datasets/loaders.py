"""DataLoaders of a training: batches with numbers, and batches that a hook makes."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader, IterableDataset

from icd_mmrazor.compat.runs import take_batches_from
from icd_mmrazor.datasets.randomness import IMAGES, ORDER, seed_all

# attributes of NumberedBatches; all others are those of the batch sampler whose place it takes
OWN = ('batch_sampler', 'loader', 'loop', 'rank', 'seed', 'skip', '_begun', '_endless')


class NumberedIndices(list):
    """The places of a batch's images in the dataset, with the number of the batch.

    Args:
        indices: The places.
        number: The iteration that trains on them, counted from 0 over the whole run.
    """

    def __init__(self, indices: Iterable[int], number: int) -> None:
        super().__init__(indices)
        self.number = number


class NumberedBatches:
    """The batches of a training's DataLoader, numbered by the iteration that trains on them.

    It takes the place of the DataLoader's batch sampler until :meth:`undo`. The number travels with the indices to
    whatever prepares the batch, in this process or in a worker, and random numbers are drawn for that number: with any
    number of workers the images are the same, and after a resume too.

    A resumed training begins with the batch that it is at; those before it are not loaded. In a loop that counts
    iterations the next pass over the data begins after the last batch of one.

    Args:
        loop: The training loop.
        seed: Seed of the run.
        rank: Rank of this process.

    Attributes:
        skip (int): How many batches the next epoch leaves out, because they were trained before a resume.
    """

    def __init__(self, loop: BaseLoop, seed: int, rank: int) -> None:
        loader = self.loader = loop.dataloader
        self.loop, self.seed, self.rank, self.skip = loop, seed, rank, 0
        self.batch_sampler = loader.batch_sampler
        # torch refuses to set it, because batch_size and sampler might not fit any more; here they do
        vars(loader)['batch_sampler'] = self
        _forget_workers(loader)
        loader.dataset.__getitems__ = _RepeatablePreparation(loader.dataset, seed, rank)
        self._endless = hasattr(loop, 'dataloader_iterator')
        # of such a loop: a pass over the data and the iteration that it begins with
        self._begun = 0, 0
        if self._endless:
            take_batches_from(loop, self._loaded())

    def __len__(self) -> int:
        return len(self.batch_sampler)

    @property
    def sampler(self) -> Any:
        """Where the order of the images comes from."""
        return getattr(self.batch_sampler, 'sampler', self.loader.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'batch_sampler':  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # a hook that sets another sampler or batch size means the loader's own batch sampler
        object.__setattr__(self if name in OWN else self.batch_sampler, name, value)

    def __iter__(self) -> Iterator[NumberedIndices]:
        if self._endless:
            yield from self._rest_of_pass()
            return
        skip, self.skip = self.skip, 0
        batches = itertools.islice(self._pass(self.loop.epoch), skip, None)
        for i, indices in enumerate(batches, self.loop.iter):
            yield NumberedIndices(indices, i)

    def _rest_of_pass(self) -> Iterator[NumberedIndices]:
        """Yield the batches from the loop's iteration to the end of the pass over the data that it is in."""
        if isinstance(self.sampler, InfiniteSampler):  # its stream may have been begun
            sampler = self.sampler
            sampler.indices = InfiniteSampler(sampler.dataset, sampler.shuffle, sampler.seed).indices
        number, (epoch, begin) = self.loop.iter, self._begun
        end = begin
        while end <= number:  # passes that have ended are gone through by their indices alone
            self._begun = epoch, begin = epoch + (end > begin), end
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)
            for end, indices in enumerate(self._pass(epoch), begin + 1):
                if end > number:
                    yield NumberedIndices(indices, end - 1)
            if end == begin:  # no batches
                return

    def _pass(self, epoch: int) -> Iterator[Sequence[int]]:
        # for samplers without a seed of their own; without the rank, since some take their part of a common order
        seed_all(self.seed, 0, epoch, ORDER)
        yield from self.batch_sampler

    def _loaded(self) -> Iterator[Any]:
        # not before the first batch is asked for: hooks may still change the loader; again for each pass, as mmengine
        # does, so that workers that start with it see what hooks have changed since
        while True:
            yield from self.loop.dataloader

    def undo(self) -> None:
        """Leave the DataLoader as it was. Its dataset prepares batches without a number as always."""
        vars(self.loader)['batch_sampler'] = self.batch_sampler
        _forget_workers(self.loader)


def number_batches(loop: BaseLoop, seed: int, rank: int) -> NumberedBatches | None:
    """Number the batches of a training loop, unless they are numbered already.

    Args:
        loop: The loop, before its first batch.
        seed: Seed of the run.
        rank: Rank of this process.

    Returns:
        The batches; ``None`` where it is not the loader that takes images from a dataset batch by batch.
    """
    loader = loop.dataloader
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if loader.batch_sampler is None:
        return None
    if isinstance(loader.batch_sampler, NumberedBatches):
        return loader.batch_sampler
    return NumberedBatches(loop, seed, rank)


class MadeBatches:
    """Let a function make the batches of a DataLoader, in the loader's own order, until :meth:`undo`.

    Meanwhile the loader has no workers, whatever its ``num_workers``: there is nothing to prepare.

    Args:
        loader: The DataLoader; changed.
        make: Takes the places of a batch's images in the dataset, :class:`NumberedIndices` if the loader's batches are
            numbered, and returns the batch; or ``None`` for one that is to be prepared image by image as always.
        in_cpu_memory: Whether the batches lie there, so that pinning them makes sense.
    """

    def __init__(
        self, loader: DataLoader, make: Callable[[Sequence[int]], dict[str, Any] | None], in_cpu_memory: bool
    ) -> None:
        settings = dict(
            collate_fn=self._collate,
            pin_memory=loader.pin_memory and in_cpu_memory,
            num_workers=0,
            timeout=0,  # of waiting for workers: an error without any
        )
        self.loader, self._make = loader, make
        self._before = {name: getattr(loader, name) for name in settings}
        self._prepare_before = vars(loader.dataset).get('__getitems__')
        self._set(settings)
        # torch's DataLoader asks a dataset that has this method for a whole batch
        loader.dataset.__getitems__ = self._fetch

    def undo(self) -> None:
        """Leave the DataLoader as it was; a pass over it that has started continues image by image."""
        self._set(self._before)
        self._make = _nothing
        vars(self.loader.dataset).pop('__getitems__', None)
        if self._prepare_before:
            self.loader.dataset.__getitems__ = self._prepare_before

    def _set(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            setattr(self.loader, name, value)

    def _fetch(self, indices: Sequence[int]) -> Any:
        batch = self._make(indices)
        if batch is not None:
            return _Made(batch)
        prepare = self._prepare_before or functools.partial(_one_by_one, self.loader.dataset)
        return prepare(indices)

    def _collate(self, batch: Any) -> Any:
        return batch.batch if isinstance(batch, _Made) else self._before['collate_fn'](batch)


def are_made(loader: Any) -> bool:
    """Return whether a function makes the batches of a DataLoader (:class:`MadeBatches`).

    Args:
        loader: Any loader.
    """
    return isinstance(getattr(getattr(loader, 'collate_fn', None), '__self__', None), MadeBatches)


class _Made:
    """A batch on its way through the DataLoader, which takes it for a list of samples."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


def _nothing(indices: Sequence[int]) -> None:  # noqa: ARG001 as of make
    return None


def _one_by_one(dataset: Any, indices: Sequence[int]) -> list[Any]:
    if hasattr(type(dataset), '__getitems__'):
        return type(dataset).__getitems__(dataset, indices)
    return [dataset[index] for index in indices]


class _RepeatablePreparation:
    """Prepare the images of a batch as always, with random numbers for its number; a class, so that it pickles."""

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.dataset, self.seed, self.rank = dataset, seed, rank

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        if isinstance(indices, NumberedIndices):
            seed_all(self.seed, self.rank, indices.number, IMAGES)
        return _one_by_one(self.dataset, indices)


def _forget_workers(loader: DataLoader) -> None:
    """Let the next pass begin with new workers: persistent ones keep the batch sampler they were begun with."""
    loader._iterator = None
