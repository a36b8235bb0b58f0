"""Labels of a dataset's images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.runner import BaseLoop, Runner
from mmpretrain.structures import DataSample
from torch import Tensor

from icd_mmrazor.datasets.randomness import undrawn
from icd_mmrazor.datasets.samples import LABELS, without_labels

IMAGES_TO_CHECK = 8


def image_labels(dataset: Any) -> np.ndarray | None:
    """Return the label of each image of a dataset; ``None`` if it has no labels, or several per image."""
    if not hasattr(dataset, 'get_gt_labels') or not len(dataset):
        return None
    try:
        labels = np.asarray(dataset.get_gt_labels())
    except (KeyError, ValueError):  # no labels, or rows of different length
        return None
    return labels if labels.ndim == 1 and labels.dtype.kind in 'iu' else None


def has_labels(dataset: Any) -> bool | None:
    """Return whether the first image of a dataset has a label; ``None`` if that cannot be told.

    It is prepared only if its annotation has none: a transform may add it.
    """
    try:
        if LABELS & {*dataset.get_data_info(0)}:
            return True
        with undrawn():
            samples = dataset[0]['data_samples']
    except Exception:  # a dataset may raise anything, and says so itself when it is used
        return None
    samples = samples if isinstance(samples, list) else [samples]
    return not without_labels(samples) if all(isinstance(each, DataSample) for each in samples) else None


def plain_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the datasets inside mmengine's RepeatDataset, ConcatDataset and the like."""
    inside = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inside == [None]:
        yield dataset
    else:
        for part in inside:
            yield from plain_datasets(part)


def datasets_in_use(runner: Runner) -> Iterator[tuple[str, Any]]:
    """Yield the plain datasets of a runner's loops that are built, each with its setting: ``'train_dataloader'``."""
    for split in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{split}_loop', None)
        whole = getattr(loop.dataloader, 'dataset', None) if isinstance(loop, BaseLoop) else None
        if whole is not None:
            for dataset in plain_datasets(whole):
                yield f'{split}_dataloader', dataset


def images_are_gray(dataset: Any) -> bool:
    """Return whether all channels of a dataset's first images are equal, so that their order does not matter."""
    try:
        images = [dataset[i]['inputs'] for i in range(min(IMAGES_TO_CHECK, len(dataset)))]
    except (TypeError, LookupError):  # samples of another form
        return False
    images = [image[0] if isinstance(image, list) and image else image for image in images]
    return all(isinstance(i, Tensor) and i.ndim == 3 and bool((i == i[:1]).all()) for i in images)
