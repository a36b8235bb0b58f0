"""Pipelines whose random numbers are those of a crop, then a flip."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from mmcv.transforms import CenterCrop, LoadImageFromFile, Pad, RandomFlip, Resize
from mmcv.transforms import Compose as MMCVCompose
from mmengine.dataset import BaseDataset, Compose
from mmpretrain.datasets.transforms import EfficientNetCenterCrop, PackInputs, RandomCrop, ResizeEdge

from icd_mmrazor.datasets.indexed import IndexedDataset
from icd_mmrazor.datasets.labels import plain_datasets
from icd_mmrazor.datasets.partly_labeled import PartlyLabeledDataset, UnlabeledDataset
from icd_mmrazor.datasets.selected import SelectedDataset
from icd_mmrazor.datasets.two_views import TwoViewDataset

# transforms that do the same to an image every time
FIXED = (LoadImageFromFile, Resize, ResizeEdge, Pad, CenterCrop, EfficientNetCenterCrop)


class NotInMemoryError(Exception):
    """The batches of a dataset cannot be made in memory; the message says why."""


class Pipeline(NamedTuple):
    """The transforms of a dataset without randomness, its crop and its flip, if any."""

    fixed: list[Any]
    crop: RandomCrop | None
    flip: RandomFlip | None

    @property
    def random_part(self) -> list[dict | None]:
        """The settings of crop and flip."""
        return [each and dict(vars(each)) for each in (self.crop, self.flip)]

    def crop_size(self, images: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the crops of images, of which height and width with their padding are given."""
        # RandomCrop takes all of an image that is smaller than the crop
        height, width = map(min, images, self.crop.crop_size if self.crop else images)
        return height, width


def parts_of(dataset: Any) -> list[Any]:
    """Return the datasets of a ``PartlyLabeledDataset``, or the one in a wrapper that leaves its pipeline alone."""
    if isinstance(dataset, PartlyLabeledDataset):
        return [part for each in dataset.datasets for part in parts_of(each)]
    if isinstance(dataset, IndexedDataset | SelectedDataset | TwoViewDataset):
        return parts_of(dataset.dataset)
    if isinstance(dataset, UnlabeledDataset):
        return parts_of(dataset.images)
    return [dataset]


def innermost(dataset: Any) -> list[Any]:
    """Return the datasets in a dataset of any kind."""
    parts = [each.images if isinstance(each, UnlabeledDataset) else each for each in plain_datasets(dataset)]
    return [each for part in parts for each in plain_datasets(part)]


def pipelines_of(dataset: Any) -> list[Any]:
    """Return the pipelines of the datasets in a dataset of any kind; None for one that has none."""
    return [getattr(each, 'pipeline', None) for each in innermost(dataset)]


def split_pipelines(dataset: Any) -> list[Pipeline]:
    """Split the pipeline of each part of a dataset.

    Raises:
        NotInMemoryError: A pipeline has anything else, the parts are cropped or flipped differently, or a part makes
            its samples in its own way.
    """
    pipelines = [_split(part) for part in parts_of(dataset)]
    if len(pipelines) > 1 and any(each.random_part != pipelines[0].random_part for each in pipelines):
        raise NotInMemoryError('the images with labels and those without are not cropped or flipped alike')
    return pipelines


def _split(plain: Any) -> Pipeline:
    if not isinstance(plain, BaseDataset) or any(
        method in vars(plain) or getattr(type(plain), method) is not getattr(BaseDataset, method)
        for method in ('__getitem__', 'prepare_data')
    ):
        raise NotInMemoryError(f'{type(plain).__name__} makes its samples in its own way')
    # any other type may do more than run the transforms that it has
    if type(plain.pipeline) not in (Compose, MMCVCompose):
        raise NotInMemoryError(f'the pipeline is a {type(plain.pipeline).__name__}, not a list of transforms')
    transforms = list(plain.pipeline.transforms)
    if any('transform' in vars(transform) for transform in transforms if hasattr(transform, '__dict__')):
        raise NotInMemoryError('the transform method of a transform in the pipeline was replaced')
    fixed = list(itertools.takewhile(lambda transform: type(transform) in FIXED, transforms))
    rest = transforms[len(fixed) :]
    crop = rest.pop(0) if rest and type(rest[0]) is RandomCrop else None
    flip = rest.pop(0) if rest and _is_horizontal_flip(rest[0]) else None
    if len(rest) != 1 or not _packs_as_usual(rest[0]):
        names = ', '.join(type(transform).__name__ for transform in transforms)
        raise NotInMemoryError(
            f'the pipeline ({names}) is not made of transforms without randomness, RandomCrop, a horizontal RandomFlip '
            'and PackInputs with its defaults, in this order'
        )
    return Pipeline(fixed, crop, flip)


def _is_horizontal_flip(transform: Any) -> bool:
    return type(transform) is RandomFlip and transform.direction == 'horizontal' and isinstance(transform.prob, float)


def _packs_as_usual(transform: Any) -> bool:
    return (
        type(transform) is PackInputs
        and (transform.input_key, tuple(transform.algorithm_keys)) == ('img', ())
        and tuple(transform.meta_keys) == PackInputs.DEFAULT_META_KEYS
    )


class Padding(RandomCrop):
    """The padding of a ``RandomCrop``, without the crop."""

    def __init__(self, crop: RandomCrop) -> None:
        # a crop that grows leaves the padding as it is, unless the padding makes room for it
        size = crop.crop_size if crop.pad_if_needed else 1
        super().__init__(size, crop.padding, crop.pad_if_needed, crop.pad_val, crop.padding_mode)

    def rand_crop_params(self, img: np.ndarray) -> tuple[int, int, int, int]:
        """Take all of the image."""
        return 0, 0, *img.shape[:2]
