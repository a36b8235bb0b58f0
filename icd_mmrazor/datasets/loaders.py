"""Training DataLoaders whose batches are numbered by iteration."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.runner import BaseLoop
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from icd_mmrazor.compat.runs import take_batches_from
from icd_mmrazor.datasets.randomness import IMAGES, MIXTURE, ORDER, seed_all
from icd_mmrazor.datasets.samples import number_view
from icd_mmrazor.datasets.view_numbers import FixedViews, Views
from icd_mmrazor.errors import SettingError

SETTINGS = ('num_workers', 'collate_fn', 'pin_memory', 'pin_memory_device', 'worker_init_fn', 'generator', 'in_order')
WORKER_SETTINGS = ('timeout', 'multiprocessing_context', 'prefetch_factor', 'persistent_workers')


class NumberedIndices(list):
    """The indices of a batch's images, with the number of the iteration that trains on them, from 0 over the run.

    Attributes:
        number (int): The number.
        view (int): Which of the fixed views of its images the batch has, if there are any.
    """

    def __init__(self, indices: Iterable[int], number: int, view: int = 0) -> None:
        super().__init__(indices)
        self.number, self.view = number, view


class NumberedBatches:
    """The batches of a training loop, numbered by the iteration that trains on them.

    A :class:`NumberedLoader` takes the place of the loop's DataLoader until :meth:`undo`. The number travels with the
    indices to the process that prepares the images and seeds it: they are the same with any number of workers, and
    after a resume, which starts at the next batch without loading those before it.

    Attributes:
        loader (NumberedLoader): What stands in for the loop's DataLoader.
        skip (int): How many batches the next epoch leaves out, because they were trained before a resume.
    """

    def __init__(self, loop: BaseLoop, seed: int, rank: int) -> None:
        self.loop, self.seed, self.rank, self.skip = loop, seed, rank, 0
        self._replaced = loop.dataloader
        self.loader = loop.dataloader = NumberedLoader(loop.dataloader, self)
        self._replaced._iterator = None  # persistent workers, which mmengine 0.10.7 starts with its loop
        self._counts_iterations = hasattr(loop, 'dataloader_iterator')
        # in such a loop: the pass over the data, and its first iteration
        self._pass_started = 0, 0
        self._stream = self._loaded()
        if self._counts_iterations:
            take_batches_from(loop, self._stream)

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def sampler(self) -> Any:
        """The sampler that the order of the images comes from."""
        return getattr(self.loader.batch_sampler, 'sampler', self.loader.sampler)

    def __iter__(self) -> Iterator[NumberedIndices]:
        if self._counts_iterations:
            yield from self._rest_of_pass()
            return
        skip, self.skip = self.skip, 0
        view = self._view(self.loop.epoch)
        batches = itertools.islice(self._pass(self.loop.epoch), skip, None)
        for number, indices in enumerate(batches, self.loop.iter):
            yield NumberedIndices(indices, number, view)

    def _view(self, pass_number: int) -> int:
        return 0 if self.loader.views is None else self.loader.views.at(pass_number)

    def _batches_of_pass(self) -> int:
        """Return how many batches a process trains on while all of them see the data once."""
        sampler = self.sampler
        # its length is that of the dataset, whatever the number of processes
        processes = sampler.world_size if isinstance(sampler, InfiniteSampler) else 1
        return max(1, math.ceil(len(self) / processes))

    def _rest_of_pass(self) -> Iterator[NumberedIndices]:
        """Yield the batches from the loop's iteration to the end of its pass over the data."""
        sampler = self.sampler
        if isinstance(sampler, InfiniteSampler):  # its stream may have been started
            sampler.indices = InfiniteSampler(sampler.dataset, sampler.shuffle, sampler.seed).indices
        number, (epoch, start) = self.loop.iter, self._pass_started
        end = start
        while end <= number:  # of passes that have ended only the indices are read
            self._pass_started = epoch, start = epoch + (end > start), end
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
            for end, indices in enumerate(self._pass(epoch), start + 1):
                if end > number:
                    yield NumberedIndices(indices, end - 1, self._view((end - 1) // self._batches_of_pass()))
            if end == start:  # no batches
                return

    def _pass(self, epoch: int) -> Iterator[Sequence[int]]:
        # for samplers without a seed; without the rank, since some take their part of a common order
        seed_all(self.seed, 0, epoch, ORDER)
        yield from self.loader.batch_sampler

    def _loaded(self) -> Iterator[Any]:
        # not before the first batch is asked for, since hooks may still change the loader; again for each pass, as
        # mmengine does, so that workers see what hooks have changed since
        while True:
            yield from self.loop.dataloader

    def undo(self) -> None:
        """Put the DataLoader back on the loop, unless a hook has put another one there, and stop the workers.

        Workers that are left to the garbage collector take 5 seconds each to end.
        """
        self._stream.close()
        self.loader.stop_workers()
        if self.loop.dataloader is self.loader:
            self.loop.dataloader = self._replaced
        elif self.loader.views_in_use is not None:
            self.loader.views_in_use.end()
        self.loader.views_in_use = None


class NumberedLoader(DataLoader):
    """A DataLoader with the dataset, samplers and settings of another, whose batches are numbered.

    Attributes:
        make (Callable | None): Makes a whole batch of :class:`NumberedIndices` in this process, or returns None to have
            its images prepared as usual. While it is set, no workers are started.
        views (Views | None): A numbering of views, whose numbers the data samples then have as ``view_idx``. With
            :class:`~icd_mmrazor.datasets.view_numbers.FixedViews`, each image is seeded by its view, not the batch by
            its number; a pass over the data has one view of each image.
        views_in_use (ViewsInUse | None): What notices another pipeline, before each pass over the data.
    """

    make: Callable[[NumberedIndices], Any] | None = None
    views: Views | None = None
    views_in_use: Any = None
    _loader: DataLoader | None = None

    def __init__(self, loader: DataLoader, numbered: NumberedBatches) -> None:
        batches = loader.batch_sampler
        order: dict[str, Any] = {'batch_sampler': batches}
        if type(batches) is BatchSampler and loader.batch_size is not None:
            order = {name: getattr(batches, name) for name in ('batch_size', 'sampler', 'drop_last')}
        super().__init__(loader.dataset, **order, **_settings(loader))
        vars(self)['batch_sampler'] = batches  # the very same, which hooks may hold; torch refuses to set it
        self.numbered = numbered

    def __iter__(self) -> Iterator[Any]:
        if self.views_in_use is not None:
            self.views_in_use.look()
        dataset = _RepeatableDataset(self.dataset, (self.numbered.seed, self.numbered.rank), self.views)
        if self.make is not None:
            return self._made(dataset)
        if self.views is not None and self.views.in_memory:
            raise SettingError(
                "model.teacher_cache.views='all' needs batches made in memory, and nothing makes them. Add "
                "default_hooks.whole_batches=dict(type='InMemoryAugmentationHook'), or set a number of fixed views, "
                'such as views=1.'
            )
        if self._iterator is None or not self.persistent_workers:  # hooks set it to None to restart the workers
            self._loader = DataLoader(dataset, batch_sampler=self.numbered, **_settings(self))
        iterator = iter(self._loader)
        if self.persistent_workers:
            self._iterator = iterator
        return iterator

    def stop_workers(self) -> None:
        """Let go of persistent workers."""
        self._iterator = self._loader = None

    def _made(self, dataset: '_RepeatableDataset') -> Iterator[Any]:
        for indices in self.numbered:
            batch = self.make(indices) if self.make is not None else None
            yield self.collate_fn(dataset.__getitems__(indices)) if batch is None else batch


def number_batches(loop: BaseLoop, seed: int, rank: int) -> NumberedBatches | None:
    """Number the batches of a loop that has not started, unless they are already.

    Returns:
        The batches; ``None`` if the loop's loader does not take batches from a dataset, or yields them in its own way.
    """
    loader = loop.dataloader
    if isinstance(loader, NumberedLoader):
        return loader.numbered
    usual = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    if not usual or isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return None
    return NumberedBatches(loop, seed, rank)


def sample_of_view(dataset: Any, views: FixedViews, index: int, view: int) -> Any:
    """Prepare a fixed view of an image, with the random numbers of this view alone."""

    def prepared(image: int) -> Any:
        seed_all(*views.key(image, view))
        (sample,) = _samples(dataset, [image])
        return sample

    if views.mixing is None:
        return prepared(index)
    return views.mixing(dataset, int(index), prepared, (*views.key(index, view)[:-1], MIXTURE))


def _samples(dataset: Any, indices: Sequence[int]) -> list[Any]:
    if hasattr(dataset, '__getitems__'):
        return dataset.__getitems__(indices)
    return [dataset[index] for index in indices]


class _RepeatableDataset:
    """A dataset that seeds each batch by its number, in the process that prepares it; fixed views each by their own."""

    def __init__(self, dataset: Any, key: tuple[int, int], views: Views | None = None) -> None:
        vars(self).update(dataset=dataset, _key=key, _views=views)

    def __getitems__(self, indices: NumberedIndices) -> list[Any]:
        """Prepare a batch; torch's DataLoader asks a dataset that has this method for all of it."""
        views = self._views
        fixed = isinstance(views, FixedViews)
        samples = [sample_of_view(self.dataset, views, index, indices.view) for index in indices] if fixed else []
        # with fixed views for whatever comes after them
        seed_all(*self._key, indices.number, IMAGES)
        samples = samples or _samples(self.dataset, indices)
        if views is not None and not views.in_memory:
            for index, sample in zip(indices, samples, strict=True):
                number_view(sample, int(views.row(index, indices.view)))
        return samples

    # worker_init_fn may ask torch for the dataset: it sees the one inside
    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or 'dataset' not in vars(self):  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)


def _settings(loader: DataLoader) -> dict[str, Any]:
    names = SETTINGS + WORKER_SETTINGS if loader.num_workers else SETTINGS
    return {name: getattr(loader, name) for name in names}
