"""Batches of images of which a part has labels."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError

NAME = 'PartlyLabeledBatchSampler'
# keeps the orders of the repeated images apart from other random numbers that follow from the seed
REPEATED = 1


@DATA_SAMPLERS.register_module()
class PartlyLabeledBatchSampler:
    """Batches of a fixed number of labelled images, then a fixed number of unlabelled ones.

    An epoch is one pass over the labelled images, in the order and the parts of the processes that the ``sampler``
    would give them without the others. The unlabelled ones come in separate shuffled passes, which continue from one
    epoch to the next: all are used equally often, whatever the numbers. With ``epoch_of='unlabeled'`` it is the other
    way round.

    The order depends only on the seed and the epoch of ``sampler``. A resumed run continues exactly, without a stored
    state. In a loop that counts iterations the epochs follow each other, too.

    Args:
        sampler: A ``DefaultSampler``, which mmengine builds from ``train_dataloader.sampler``. Its ``shuffle`` and
            ``round_up`` count.
        batch_size: Images in a batch of one process, all together: ``train_dataloader.batch_size``.
        unlabeled: How many of them have no label: a number, or a share of the batch between 0 and 1.
        epoch_of: What an epoch is a pass over: ``'labeled'`` or ``'unlabeled'``.
        drop_last: Whether to leave out the last batch of an epoch if too few images are left for it. If not, it is
            smaller, with about the same share of both.

    Raises:
        SettingError: An argument is invalid, ``sampler`` is another one, its dataset is not a
            ``PartlyLabeledDataset``, or an epoch has no batch.

    Config example, 16 images with labels and 48 without::

        train_dataloader=dict(
            batch_size=64,
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='PartlyLabeledBatchSampler', unlabeled=48),
            dataset=dict(type='PartlyLabeledDataset', labeled=dict(...), unlabeled=dict(...)))
    """

    def __init__(
        self,
        sampler: DefaultSampler,
        batch_size: int,
        unlabeled: float = 0.5,
        epoch_of: str = 'labeled',
        drop_last: bool = False,
    ) -> None:
        if not isinstance(sampler, DefaultSampler):
            raise SettingError(
                f'{NAME}: train_dataloader.sampler is a {type(sampler).__name__}. Set '
                "sampler=dict(type='DefaultSampler', shuffle=True), with train_cfg.max_iters too."
            )
        dataset = sampler.dataset
        if not hasattr(dataset, 'num_labeled'):
            raise SettingError(
                f'{NAME}: train_dataloader.dataset is a {type(dataset).__name__}. Give a PartlyLabeledDataset, with '
                'wrappers such as RepeatDataset around its parts, not around the whole.'
            )
        self.sampler, self.batch_size = sampler, checks.positive_int(self, 'batch_size', batch_size)
        self.epoch_of = checks.one_of(self, 'epoch_of', epoch_of, ('labeled', 'unlabeled'))
        self.drop_last = checks.boolean(self, 'drop_last', drop_last)
        self.unlabeled_per_batch = _number(unlabeled, batch_size)
        self.labeled_per_batch = batch_size - self.unlabeled_per_batch
        # number of images, number in a batch, position of the first
        parts = {
            'labeled': (dataset.num_labeled, self.labeled_per_batch, 0),
            'unlabeled': (len(dataset) - dataset.num_labeled, self.unlabeled_per_batch, dataset.num_labeled),
        }
        self._size, self._per_batch, self._first = parts.pop(epoch_of)
        ((self._other_size, self._other_per_batch, self._other_first),) = parts.values()
        self._once = DefaultSampler(range(self._size), sampler.shuffle, sampler.seed, sampler.round_up)
        if not len(self):
            raise SettingError(
                f'{NAME}: {self._size} {epoch_of} images in {sampler.world_size} processes give no batch with '
                f'{self._per_batch} of them and drop_last=True. Lower train_dataloader.batch_size.'
            )

    def __len__(self) -> int:
        """Number of batches of an epoch in this process."""
        return self._batches(len(self._once))

    def __iter__(self) -> Iterator[list[int]]:
        sampler = self.sampler
        # the loop sets the epoch of the given sampler, and a resume its seed
        self._once.seed, self._once.epoch = sampler.seed, sampler.epoch
        images = [*self._once]
        # of all processes, of which the first has the most images
        counts = [self._others_for(images) for images in self._sizes(math.ceil(self._size / sampler.world_size))]
        others = self._stream(sampler.epoch * sum(counts) * sampler.world_size, sum(counts) * sampler.world_size)
        start = 0
        for batch in range(len(self)):
            chosen = images[batch * self._per_batch :][: self._per_batch]
            end = start + counts[batch] * sampler.world_size
            repeated = others[start + sampler.rank : end : sampler.world_size].tolist()
            start = end
            parts = [[self._first + i for i in chosen], [self._other_first + i for i in repeated]]
            # labelled first
            yield [index for part in (parts if self._first == 0 else parts[::-1]) for index in part]

    def _batches(self, images: int) -> int:
        return images // self._per_batch if self.drop_last else math.ceil(images / self._per_batch)

    def _sizes(self, images: int) -> list[int]:
        """Return how many of so many images are in each batch of an epoch."""
        return [min(self._per_batch, images - batch * self._per_batch) for batch in range(self._batches(images))]

    def _others_for(self, images: int) -> int:
        """Return how many of the others a batch with so many images has."""
        return math.ceil(self._other_per_batch * images / self._per_batch)

    def _stream(self, start: int, number: int) -> np.ndarray:
        """Return a section of the endless sequence of passes over the others."""
        first, end = start // self._other_size, math.ceil((start + number) / self._other_size)
        passes = np.concatenate([self._order(index) for index in range(first, end)])
        return passes[start - first * self._other_size :][:number]

    def _order(self, index: int) -> np.ndarray:
        if not self.sampler.shuffle:
            return np.arange(self._other_size)
        return np.random.default_rng((self.sampler.seed, REPEATED, index)).permutation(self._other_size)


def _number(unlabeled: Any, batch_size: int) -> int:
    number = unlabeled
    if isinstance(unlabeled, float) and 0 < unlabeled < 1:
        number = min(max(round(unlabeled * batch_size), 1), batch_size - 1)
    if type(number) is not int or not 0 < number < batch_size:
        raise SettingError(
            f'{NAME}: unlabeled={unlabeled!r} must be a number of images, at least 1 and less than '
            f'train_dataloader.batch_size={batch_size}, or a share of the batch between 0 and 1.'
        )
    return number
