"""Whole batches of images, cropped and flipped at once, from datasets that fit in memory."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import CenterCrop, LoadImageFromFile, Pad, RandomFlip, Resize
from mmcv.transforms import Compose as MMCVCompose
from mmengine.dataset import BaseDataset, Compose
from mmpretrain.datasets.transforms import EfficientNetCenterCrop, PackInputs, RandomCrop, ResizeEdge
from mmpretrain.structures import DataSample
from torch import Tensor

from icd_mmrazor.compat.layout import laid_out
from icd_mmrazor.datasets.fingerprints import fingerprint, fingerprint_of_dataset
from icd_mmrazor.datasets.indexed import IndexedDataset
from icd_mmrazor.datasets.memory import free_memory, processes_sharing

# transforms that do the same to an image every time
FIXED = (LoadImageFromFile, Resize, ResizeEdge, Pad, CenterCrop, EfficientNetCenterCrop)
GB = 1e9


class NoWholeBatchesError(Exception):
    """A dataset cannot be read as whole batches; the message says why."""


def crop_and_flip(
    images: Tensor, indices: Tensor, tops: Tensor, lefts: Tensor, flipped: Tensor, size: tuple[int, int]
) -> Tensor:
    """Take a crop of each of several images, some of them mirrored, all at once.

    Args:
        images: All images, with their padding, ``N x H x W x C``, contiguous.
        indices: Which images, integers, ``B``.
        tops: First row of each crop, integers, ``B``.
        lefts: First column of each crop, integers, ``B``.
        flipped: Whether each crop is mirrored, left to right, boolean, ``B``.
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


class WholeBatches:
    """The batches of a dataset as its pipeline would make them image by image, with the same distribution.

    All images and labels are read once, with what the pipeline does to an image every time (loading, resizing, the
    padding of the crop), and stay on a device. The crops of a batch are one gather there. How a batch is cropped and
    flipped is drawn on the CPU from ``seed``, ``rank`` and the iteration alone, so it is the same on every device and
    after a resume, whatever was drawn before.

    The size of the crop and how often an image is flipped are those of the dataset's pipeline at the moment.
    :meth:`changed` says whether anything else in the pipeline, or the dataset, is no longer what was read, and
    :meth:`read` reads it again. Image files that are overwritten are not noticed.

    The pipeline is one of mmpretrain's: transforms without randomness, then ``RandomCrop`` or none, then a horizontal
    ``RandomFlip`` or none, then ``PackInputs``. All images are uint8 and of one shape, each has one label,
    or none has any.

    Args:
        dataset: A dataset of mmpretrain, or an :class:`IndexedDataset` around one.
        device: Where images and labels stay.
        seed: Not negative.
        rank: Rank of this process.
        max_memory: How much memory the images may take, in GB; half of what is free unless given, of the CPU's the
            part of this process.
        sample_each: Whether a batch has a data sample for each image, which mixup wants, instead of one for all.
        channels_last: Whether the images of a batch lie in memory channels last, as they are cropped, or as usual.

    Raises:
        NoWholeBatchesError: The dataset, its pipeline or its images are not as described, or take too much memory.

    Attributes:
        images (Tensor): All images with their padding, ``N x H x W x C``.
    """

    def __init__(
        self,
        dataset: Any,
        device: torch.device | str = 'cpu',
        seed: int = 0,
        rank: int = 0,
        max_memory: float | None = None,
        sample_each: bool = False,
        channels_last: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self.seed, self.rank, self.sample_each, self.channels_last = seed, rank, sample_each, channels_last
        self._dataset, self._max_memory = dataset, max_memory
        self.read()

    def read(self) -> None:
        """Read images and labels, again if they were read before.

        Raises:
            NoWholeBatchesError: As the class says.
        """
        transforms = self._fixed_transforms()
        if getattr(self, 'images', None) is not None:
            self.images = None  # the memory of those that were read before is free again
            if self.device.type == 'cuda':
                torch.cuda.empty_cache()
        self.images, labels, self._positions = _read(self._dataset, transforms, self.device, self._max_memory)
        self._labels = labels.to(self.device)
        self._pipeline, self._data = self._fingerprint_of_pipeline(), self._fingerprint_of_data()

    def changed(self, data: bool = False) -> bool:
        """Return whether what was read is out of date.

        Args:
            data: Whether the dataset is looked at, too, which takes longer than a batch should. The pipeline always is.

        Raises:
            NoWholeBatchesError: The pipeline has become another than the class is for.
        """
        return self._fingerprint_of_pipeline() != self._pipeline or (data and self._fingerprint_of_data() != self._data)

    def _fixed_transforms(self) -> list[Any]:
        fixed, crop, _ = split_pipeline(self._dataset)
        return [*fixed, *([_Padding(crop)] if crop else [])]

    def _fingerprint_of_pipeline(self) -> int:
        return _told(fingerprint, self._fixed_transforms())

    def _fingerprint_of_data(self) -> int:
        return _told(fingerprint_of_dataset, self._dataset, _plain(self._dataset).pipeline)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images of a batch."""
        _, crop, _ = split_pipeline(self._dataset)
        size = tuple(self.images.shape[1:3])
        # of an image that is smaller than the crop RandomCrop takes what there is
        return tuple(map(min, size, crop.crop_size)) if crop else size

    def __call__(self, indices: Sequence[int], iteration: int) -> dict[str, Any]:
        """Make a batch.

        Args:
            indices: The images, by their place in the dataset.
            iteration: Number of the iteration, on which the random numbers depend.

        Returns:
            ``inputs``: images, ``B x C x h x w``, uint8. ``data_samples``: a list of one data
            sample whose ``gt_label`` has the labels of the batch and whose ``sample_idx`` is a list of their
            positions; with ``sample_each`` of a data sample for each image.
        """
        numbers = torch.from_numpy(np.stack([indices, *self.draw(len(indices), iteration)]))
        size = self.size
        if self.device.type == 'cuda':  # from pinned memory a copy does not wait for the GPU
            numbers = numbers.pin_memory()
        chosen, tops, lefts, flipped = numbers.to(self.device, non_blocking=True)
        labels = self._labels.index_select(0, chosen)
        positions = self._positions[indices].tolist()
        if self.sample_each:
            samples = [_sample(label, at) for label, at in zip(labels.split(1), positions, strict=True)]
        else:
            samples = [_sample(labels, positions)]
        images = crop_and_flip(self.images, chosen, tops, lefts, flipped.bool(), size)
        return {'inputs': laid_out(images, self.channels_last), 'data_samples': samples}

    def draw(self, number: int, iteration: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw how the images of a batch are cropped and flipped.

        Args:
            number: How many images.
            iteration: Number of the iteration.

        Returns:
            First row and first column of each crop, and whether it is flipped.
        """
        generator = np.random.default_rng((self.seed, self.rank, iteration))
        *_, flip = split_pipeline(self._dataset)
        tops, lefts = (
            generator.integers(whole - part + 1, size=number)
            for whole, part in zip(self.images.shape[1:3], self.size, strict=True)
        )
        return tops, lefts, generator.random(number) < (flip.prob if flip else 0.0)


def split_pipeline(dataset: Any) -> tuple[list[Any], RandomCrop | None, RandomFlip | None]:
    """Find what a dataset's pipeline does to its images.

    Args:
        dataset: A dataset of mmpretrain, or an :class:`IndexedDataset` around one.

    Returns:
        Its transforms without randomness, then its crop and its flip, each if it has one.

    Raises:
        NoWholeBatchesError: There is anything else in the pipeline, or the dataset makes its samples in its own way.
    """
    plain = _plain(dataset)
    if not isinstance(plain, BaseDataset) or any(
        method in vars(plain) or getattr(type(plain), method) is not getattr(BaseDataset, method)
        for method in ('__getitem__', 'prepare_data')
    ):
        raise NoWholeBatchesError(f'{type(plain).__name__} makes its samples in its own way')
    # of any other type the transforms, if it has some, are not all that it does
    if type(plain.pipeline) not in (Compose, MMCVCompose):
        raise NoWholeBatchesError(f'the pipeline is a {type(plain.pipeline).__name__}, not a list of transforms')
    transforms = list(plain.pipeline.transforms)
    if any('transform' in vars(transform) for transform in transforms if hasattr(transform, '__dict__')):
        raise NoWholeBatchesError('a transform of the pipeline was given another function')
    fixed = list(itertools.takewhile(lambda transform: type(transform) in FIXED, transforms))
    rest = transforms[len(fixed) :]
    crop = rest.pop(0) if rest and type(rest[0]) is RandomCrop else None
    flip = rest.pop(0) if rest and _is_horizontal_flip(rest[0]) else None
    if len(rest) != 1 or not _packs_as_usual(rest[0]):
        names = ', '.join(type(transform).__name__ for transform in transforms)
        raise NoWholeBatchesError(
            f'the pipeline ({names}) has more than transforms without randomness, RandomCrop, a horizontal RandomFlip '
            'and PackInputs with its defaults, in this order'
        )
    return fixed, crop, flip


def _told(compute: Callable[..., int], *of: Any) -> int:
    try:
        return compute(*of)
    except Exception as error:  # pickle raises anything
        raise NoWholeBatchesError(
            f'a change of the dataset would not be noticed, since it cannot be pickled ({error})'
        ) from error


def _plain(dataset: Any) -> Any:
    return dataset.dataset if isinstance(dataset, IndexedDataset) else dataset


def _is_horizontal_flip(transform: Any) -> bool:
    return type(transform) is RandomFlip and transform.direction == 'horizontal' and isinstance(transform.prob, float)


def _packs_as_usual(transform: Any) -> bool:
    return (
        type(transform) is PackInputs
        and (transform.input_key, tuple(transform.algorithm_keys)) == ('img', ())
        and tuple(transform.meta_keys) == PackInputs.DEFAULT_META_KEYS
    )


class _Padding(RandomCrop):
    """The padding of a ``RandomCrop``, without the crop."""

    def __init__(self, crop: RandomCrop) -> None:
        # a crop that grows leaves the padding as it is, unless the padding makes room for it
        size = crop.crop_size if crop.pad_if_needed else 1
        super().__init__(size, crop.padding, crop.pad_if_needed, crop.pad_val, crop.padding_mode)

    def rand_crop_params(self, img: np.ndarray) -> tuple[int, int, int, int]:
        """Take all of the image."""
        return 0, 0, *img.shape[:2]


def _read(
    dataset: Any, transforms: Sequence[Any], device: torch.device, max_memory: float | None
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Read all images, ``N x H x W x C``, with their labels, ``N`` (``N x 0`` where they have none), and positions."""
    number = len(dataset)
    if not number:
        raise NoWholeBatchesError('the dataset has no images')
    images = None
    labels: list[int | None] = [None] * number
    positions = np.empty(number, dtype=np.int64)
    for i in range(number):
        image, labels[i], positions[i] = _prepared(dataset.get_data_info(i), transforms)
        if images is None:
            _check_memory(number * image.nbytes, device, max_memory)
            # on the device at once: the CPU need not have room for all of them
            images = torch.empty((number, *image.shape), dtype=torch.uint8, device=device)
        if image.shape != images.shape[1:]:
            raise NoWholeBatchesError(
                f'image {i} is {_shape(image)}, those before it are {_shape(images[0])}; Resize makes them equal'
            )
        # a copy: what is mirrored in memory or read-only is no tensor as it is
        images[i] = torch.from_numpy(image.copy())
    unlabelled = labels.count(None)
    if 0 < unlabelled < number:
        raise NoWholeBatchesError(f'{unlabelled} of {number} images have no label')
    return images, torch.empty(number, 0) if unlabelled else torch.tensor(labels), positions


def _prepared(sample: dict, transforms: Sequence[Any]) -> tuple[np.ndarray, int | None, int]:
    for transform in transforms:
        sample = transform(sample)
        if sample is None:
            raise NoWholeBatchesError(f'{type(transform).__name__} leaves out images')
    image, label = sample.get('img'), sample.get('gt_label')
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise NoWholeBatchesError('the images are not uint8 arrays, H x W x C')
    single = isinstance(label, int | np.integer) or 'gt_label' not in sample
    if not single or not sample.keys().isdisjoint(('gt_score', 'mask')):
        raise NoWholeBatchesError('the samples have more or less than one label each')
    return image.reshape(*image.shape[:2], -1), label, sample['sample_idx']


def _check_memory(size: int, device: torch.device, max_memory: float | None) -> None:
    free, processes = free_memory(device), processes_sharing(device)
    limit = max_memory * GB if max_memory is not None else free and free / 2 / processes
    if limit is not None and size > limit:
        raise NoWholeBatchesError(
            f'the images take {size / GB:.3g} GB with their padding, more than '
            + (f'{max_memory=}' if max_memory is not None else f'half of the {free / GB:.3g} GB free on {device}')
            + (f', which {processes} processes share' if max_memory is None and processes > 1 else '')
            + '. default_hooks.whole_batches.max_memory is how many GB they may take'
        )


def _sample(labels: Tensor, positions: int | list[int]) -> DataSample:
    sample = DataSample()
    if labels.numel():
        sample.set_gt_label(labels)
    # what set_metainfo does, without a deep copy of the positions in every batch
    sample.set_field(positions, 'sample_idx', field_type='metainfo')
    return sample


def _shape(image: np.ndarray | Tensor) -> str:
    return ' x '.join(map(str, image.shape))
