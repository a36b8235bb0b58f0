"""Batches of images in memory, augmented all at once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from torch import Tensor

from icd_mmrazor.compat.layout import laid_out
from icd_mmrazor.datasets.fingerprints import fingerprint, fingerprint_of_dataset
from icd_mmrazor.datasets.keyed_crops import Crops, KeyedCrops
from icd_mmrazor.datasets.pipelines import NotInMemoryError, Padding, Pipeline, parts_of, split_pipelines
from icd_mmrazor.datasets.randomness import STRONG_VIEW, seed_cpu, undrawn
from icd_mmrazor.datasets.samples import AUGMENTATION, STRONG, VIEW, WEAK, mark_unlabeled
from icd_mmrazor.datasets.two_views import transformed
from icd_mmrazor.datasets.view_numbers import AllViews, FixedViews, Views

MAX_MEMORY = 4.0
GB = 1e9


def crop_and_flip(
    images: Tensor, indices: Tensor, tops: Tensor, lefts: Tensor, flipped: Tensor, size: tuple[int, int]
) -> Tensor:
    """Take a crop of each of several images, some of them mirrored, all at once.

    Args:
        images: All images, with their padding, ``N x H x W x C``, contiguous.
        indices: The images to crop, ``B``.
        tops: First row of each crop, ``B``.
        lefts: First column of each crop, ``B``.
        flipped: Whether to mirror each crop, ``B``.
        size: Height ``h`` and width ``w`` of the crops.

    Returns:
        The crops, ``B x C x h x w``, in memory channels last.
    """
    height, width = size
    rows = tops[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = lefts[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)
    # the images as one table of pixels: on a CPU up to three times as fast as images[indices, rows, columns]
    pixels = (indices[:, None] * images.shape[1] + rows)[:, :, None] * images.shape[2] + columns[:, None, :]
    crops = images.flatten(0, 2).index_select(0, pixels.flatten())
    return crops.unflatten(0, pixels.shape).permute(0, 3, 1, 2)


class InMemoryBatches:
    """The batches of a dataset, with the same distribution as its pipeline gives image by image.

    Images and labels are read once, with what the pipeline does to an image every time, and stay on a device, where the
    crops of a batch are one gather. Crops and flips are drawn from ``seed``, ``rank`` and the iteration alone, so a
    batch is the same on every device and after a resume. Crop size and flip probability are those of the pipeline when
    a batch is made; :meth:`changed` tells whether anything else has changed since the images were read.

    The pipeline consists of transforms of mmpretrain without randomness, then ``RandomCrop`` or none, then a horizontal
    ``RandomFlip`` or none, then ``PackInputs``. All images are uint8 and of one shape; each has one label, or none has,
    or they are those of a ``PartlyLabeledDataset``, whose parts are cropped and flipped alike. A batch of a
    ``TwoViewDataset`` has the weak views of its images, with the crops and flips of a single view, then the strong
    ones: cropped and flipped as well, then transformed one by one on the CPU.

    Args:
        dataset: A dataset of mmpretrain, or one of our wrappers of such datasets: :class:`IndexedDataset`,
            :class:`UnlabeledDataset`, :class:`PartlyLabeledDataset`, :class:`TwoViewDataset`, :class:`NoisyLabels`,
            :class:`LongTailed`.
        device: Where images and labels stay.
        seed: Seed of the run.
        rank: Rank of this process.
        max_memory: How much memory the images may take, in GB.
        sample_each: Whether a batch has a data sample for each image, which mixup needs, or one for all of them.
        channels_last: Whether the images of a batch are channels last in memory.

    Raises:
        NotInMemoryError: The dataset, its pipeline or its images are not as described, or take too much memory.

    Attributes:
        images (Tensor): All images with their padding, ``N x H x W x C``.
        views (Views | None): A numbering of views, whose numbers the data samples then have as ``view_idx``. With
            :class:`~icd_mmrazor.datasets.view_numbers.FixedViews`, crops and flips are those of the views.
    """

    views: Views | None = None
    _keyed: KeyedCrops | None = None
    # the images on the CPU, for transforms of strong views
    _on_cpu: Tensor | None = None

    def __init__(
        self,
        dataset: Any,
        device: torch.device | str = 'cpu',
        seed: int = 0,
        rank: int = 0,
        max_memory: float = MAX_MEMORY,
        sample_each: bool = False,
        channels_last: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self.seed, self.rank, self.sample_each, self.channels_last = seed, rank, sample_each, channels_last
        self._dataset, self._max_memory = dataset, max_memory
        self._num_labeled = getattr(dataset, 'num_labeled', None)
        self._two_views = getattr(dataset, 'views', 1) == 2
        self.images: Tensor | None = None
        self.read()

    def read(self) -> None:
        """Read images and labels, for the first time or again; raises as the class does."""
        transforms = self._fixed_transforms()
        self.images = self._on_cpu = None  # frees the memory of the previous ones
        self.images, labels, self._positions = _read(self._dataset, transforms, self.device, self._max_memory)
        self._labels = labels.to(self.device)
        self._pipeline, self._data = self._fingerprint_of_pipeline(), self._fingerprint_of_data()

    def changed(self, data: bool = False) -> bool:
        """Return whether the pipeline has changed since the images were read.

        Args:
            data: Whether to look at the dataset, too, which takes longer than a batch should.

        Raises:
            NotInMemoryError: The pipeline is no longer one that the class supports.
        """
        return self._fingerprint_of_pipeline() != self._pipeline or (data and self._fingerprint_of_data() != self._data)

    def _fixed_transforms(self) -> list[list[Any]]:
        """Return the transforms of each part of the dataset that are applied once."""
        return [fixed_transforms(each) for each in split_pipelines(self._dataset)]

    def _pipeline_of_batches(self) -> Pipeline:
        return split_pipelines(self._dataset)[0]

    def _fingerprint_of_pipeline(self) -> int:
        return _computed(fingerprint, self._fixed_transforms())

    def _fingerprint_of_data(self) -> int:
        return hash(tuple(_computed(fingerprint_of_dataset, part) for part in parts_of(self._dataset)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images of a batch."""
        return self._pipeline_of_batches().crop_size(self.padded_size)

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width of the images with their padding."""
        height, width = self.images.shape[1:3]
        return height, width

    def __call__(self, indices: Sequence[int], iteration: int, view: int = 0) -> dict[str, Any]:
        """Make the batch of an iteration.

        Args:
            indices: The images, by their index in the dataset.
            iteration: Number of the iteration, on which the random numbers depend.
            view: Which of the fixed views to make, if ``views`` are.

        Returns:
            ``inputs``: images, ``B x C x h x w``, uint8. ``data_samples``: a list of one data sample with all labels
            and positions (``gt_label``, ``sample_idx``, with ``views`` also ``view_idx``); with ``sample_each``, of one
            for each image. Of a ``TwoViewDataset``, ``2B`` views, and their ``augmentation``.
        """
        fixed = isinstance(self.views, FixedViews)
        crops = self._fixed_crops()(indices, view) if fixed else Crops(*self.draw(len(indices), iteration))
        images, chosen = self._images(indices, crops)
        if self._two_views:
            images = laid_out(torch.cat([images, self._strong_views(indices, iteration)]), self.channels_last)
            augmentations = [WEAK] * len(indices) + [STRONG] * len(indices)
            indices, chosen = [*indices, *indices], chosen.repeat(2)
        labels = self._labels.index_select(0, chosen)
        positions = self._positions[indices].tolist()
        # those with labels come first
        labeled = len(indices) if self._num_labeled is None else sum(index < self._num_labeled for index in indices)
        if self.sample_each:
            samples = [_sample(label, position) for label, position in zip(labels.split(1), positions, strict=True)]
            for sample in samples[labeled:]:
                mark_unlabeled(sample, labels[:0])
        else:
            labels = labels[:labeled]
            samples = [_sample(labels, positions)]
        if self.views is not None:
            numbers = self.views.of(*crops) if isinstance(self.views, AllViews) else view
            rows = self.views.row(np.asarray(indices), numbers).tolist()
            self._note(samples, VIEW, rows)
        if self._two_views:
            self._note(samples, AUGMENTATION, augmentations)
        return {'inputs': images, 'data_samples': samples}

    def _note(self, samples: list[DataSample], name: str, values: list[Any]) -> None:
        """Add something of each image to the metadata of the data samples of a batch."""
        for sample, value in zip(samples, values if self.sample_each else [values], strict=True):
            sample.set_field(value, name, field_type='metainfo')

    def _strong_views(self, indices: Sequence[int], iteration: int) -> Tensor:
        crops = Crops(*self.draw(len(indices), iteration, STRONG_VIEW))
        if not self._dataset.strong:
            return self._images(indices, crops)[0]
        if self._on_cpu is None:
            self._on_cpu = self.images.cpu()
        chosen, tops, lefts, flipped = torch.from_numpy(np.stack([indices, *crops]))
        cropped = crop_and_flip(self._on_cpu, chosen, tops, lefts, flipped.bool(), self.size)
        with undrawn():
            seed_cpu(self.seed, self.rank, iteration, STRONG_VIEW)
            images = torch.stack([transformed(image, self._dataset.strong) for image in cropped])
        if self.device.type == 'cuda':
            images = images.pin_memory()
        return images.to(self.device, non_blocking=True)

    def of_views(self, indices: Sequence[int], views: Sequence[int]) -> Tensor:
        """Make a view of each of several images.

        Args:
            indices: The images, by their index in the dataset, ``B``.
            views: The number of the view of each, ``B``: one of all crops and flips, or a fixed view.

        Returns:
            Images, ``B x C x h x w``, uint8.
        """
        if isinstance(self.views, FixedViews):
            keyed = self._fixed_crops()
            each = [keyed([index], view) for index, view in zip(indices, views, strict=True)]
            crops = Crops(*map(np.concatenate, zip(*each, strict=True)))
        else:
            crops = Crops(*self.views.crop(np.asarray(views)))
        return self._images(indices, crops)[0]

    def _images(self, indices: Sequence[int], crops: Crops) -> tuple[Tensor, Tensor]:
        """Return the crops of several images, and the indices on the device."""
        numbers = torch.from_numpy(np.stack([indices, *crops]))
        if self.device.type == 'cuda':  # a copy from pinned memory does not wait for the GPU
            numbers = numbers.pin_memory()
        chosen, tops, lefts, flipped = numbers.to(self.device, non_blocking=True)
        images = crop_and_flip(self.images, chosen, tops, lefts, flipped.bool(), self.size)
        return laid_out(images, self.channels_last), chosen

    def _fixed_crops(self) -> KeyedCrops:
        pipeline = self._pipeline_of_batches()
        made_for = self.views, pipeline.random_part, self.padded_size, len(self.images)
        if self._keyed is None or self._keyed.made_for != made_for:
            self._keyed = KeyedCrops(self.views, pipeline, self.padded_size, len(self.images))
        return self._keyed

    def draw(self, number: int, iteration: int, *purpose: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw the first row and column of each crop of a batch, and whether it is flipped."""
        generator = np.random.default_rng((self.seed, self.rank, iteration, *purpose))
        flip = self._pipeline_of_batches().flip
        tops, lefts = (
            generator.integers(side - part + 1, size=number)
            for side, part in zip(self.images.shape[1:3], self.size, strict=True)
        )
        return tops, lefts, generator.random(number) < (flip.prob if flip else 0.0)


def fixed_transforms(pipeline: Pipeline) -> list[Any]:
    """Return what a pipeline does to an image every time, with the padding of its crop."""
    return [*pipeline.fixed, *([Padding(pipeline.crop)] if pipeline.crop else [])]


def prepared_size(dataset: Any) -> tuple[int, int]:
    """Return height and width of a dataset's first image with its padding.

    Raises:
        NotInMemoryError: The pipeline is not one that :class:`InMemoryBatches` supports.
    """
    image, _, _ = _prepared(dataset.get_data_info(0), fixed_transforms(split_pipelines(dataset)[0]))
    height, width = image.shape[:2]
    return height, width


def _computed(compute: Callable[[Any], int], of: Any) -> int:
    try:
        return compute(of)
    except Exception as error:  # pickle raises anything
        raise NotInMemoryError(
            f'a change of the dataset would go unnoticed, since it cannot be pickled ({error})'
        ) from error


def _read(
    dataset: Any, transforms: Sequence[Sequence[Any]], device: torch.device, max_memory: float
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Read all images, ``N x H x W x C``, labels, ``N`` (``N x 0`` if there are none), and positions, ``N``.

    There are transforms for each part of the dataset. An image without a label, in a dataset of both, has -1.
    """
    number, labeled = len(dataset), getattr(dataset, 'num_labeled', None)
    if not number:
        raise NotInMemoryError('the dataset has no images')
    images = None
    labels: list[int | None] = [None] * number
    positions = np.empty(number, dtype=np.int64)
    for i in range(number):
        image, labels[i], positions[i] = _prepared(
            dataset.get_data_info(i), transforms[labeled is not None and i >= labeled]
        )
        if images is None:
            if number * image.nbytes > max_memory * GB:
                raise NotInMemoryError(
                    f'the images take {number * image.nbytes / GB:.3g} GB with their padding, more than {max_memory=}. '
                    'default_hooks.whole_batches.max_memory sets how many GB they may take'
                )
            # on the device at once: the CPU may not have room for all of them
            images = torch.empty((number, *image.shape), dtype=torch.uint8, device=device)
        if image.shape != images.shape[1:]:
            shapes = (' x '.join(map(str, shape)) for shape in (image.shape, images.shape[1:]))
            raise NotInMemoryError('image {} is {}, those before it are {}; Resize makes them equal'.format(i, *shapes))
        # a copy: torch takes no array that is mirrored or read-only
        images[i] = torch.from_numpy(image.copy())
    unlabelled = labels.count(None)
    if labeled is not None and unlabelled == number - labeled:
        return images, torch.tensor([*labels[:labeled], *[-1] * unlabelled]), positions
    if 0 < unlabelled < number:
        raise NotInMemoryError(f'{unlabelled} of {number} images have no label')
    return images, torch.empty(number, 0) if unlabelled else torch.tensor(labels), positions


def _prepared(sample: dict, transforms: Sequence[Any]) -> tuple[np.ndarray, int | None, int]:
    for transform in transforms:
        sample = transform(sample)
        if sample is None:
            raise NotInMemoryError(f'{type(transform).__name__} leaves out images')
    image, label = sample.get('img'), sample.get('gt_label')
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise NotInMemoryError('the images are not uint8 arrays, H x W x C')
    single = isinstance(label, int | np.integer) or 'gt_label' not in sample
    if not single or not sample.keys().isdisjoint(('gt_score', 'mask')):
        raise NotInMemoryError('the samples have more or less than one label each')
    return image.reshape(*image.shape[:2], -1), label, sample['sample_idx']


def _sample(labels: Tensor, positions: int | list[int]) -> DataSample:
    sample = DataSample()
    if labels.numel():
        sample.set_gt_label(labels)
    # what set_metainfo does, without a deep copy of the positions in every batch
    sample.set_field(positions, 'sample_idx', field_type='metainfo')
    return sample
