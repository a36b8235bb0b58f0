"""Images of a dataset in memory."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.datasets.class_names import class_names
from icd_mmrazor.datasets.parts import data_samples_of
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.models.networks.preparation import source_of_images


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of a dataset, as its pipeline gives them.

    Args:
        pixels: uint8, ``N x C x H x W``.
        labels: The class of each image, ``N``; None if not all have one.
        total: The number of images in the dataset.
        classes: The names of the classes, if the dataset has them.
        source: The order of the channels, see :class:`~icd_mmrazor.models.networks.preparation.Preparation`.
    """

    pixels: Tensor
    labels: Tensor | None
    total: int
    classes: tuple[str, ...] | None
    source: str | None

    def __len__(self) -> int:
        return len(self.pixels)


def read_images(loader: Mapping[str, Any], scope: str, at_most: int, seed: int = 0, setting: str = '') -> Images:
    """Read images of a dataset into memory.

    Args:
        loader: The config of a DataLoader, of which the dataset counts.
        scope: The scope that it is built in.
        at_most: The number of images; of more, some are drawn with the seed.
        seed: The seed.
        setting: What names the dataset, for messages.

    Raises:
        DatasetError: The dataset has no images.
        SettingError: The number is not positive, the dataset cannot be built, or its images are not uint8 of one size.
    """
    checks.positive_int('analysis', 'max_images', at_most)
    setting = setting or 'test_dataloader.dataset'
    dataset = _built(loader['dataset'], scope, setting)
    places = np.random.default_rng(seed).permutation(len(dataset))[:at_most]
    samples = [dataset[place] for place in sorted(places.tolist())]
    pixels = [sample['inputs'] for sample in samples]
    if any(not isinstance(image, Tensor) or image.dtype != torch.uint8 for image in pixels):
        raise SettingError(
            f'{setting}: its pipeline gives no images of 0 to 255 (uint8). Let model.data_preprocessor normalise them.'
        )
    if len({image.shape for image in pixels}) > 1:
        raise SettingError(f"{setting}: its images have several sizes. Add dict(type='Resize', ...) to its pipeline.")
    labels = [each.get('gt_label') for sample in samples for each in data_samples_of(sample, setting)]
    known = all(label is not None and label.numel() == 1 for label in labels)
    return Images(
        pixels=torch.stack(pixels),
        labels=torch.cat([label.view(1) for label in labels]) if known else None,
        total=len(dataset),
        classes=class_names(getattr(dataset, 'metainfo', None)),
        source=source_of_images({'test_dataloader': loader}, ('test',)),
    )


def _built(settings: Mapping[str, Any], scope: str, setting: str) -> Any:
    """Build a dataset that has images."""
    empty = DatasetError(f'{setting}: {settings.get("type")} has no images. Name a dataset that has some.')
    try:
        with DefaultScope.overwrite_default_scope(scope), explained_settings():
            dataset = DATASETS.build(settings)
            number = len(dataset)
    except ValueError as error:
        # mmengine's own way to say that there are no annotations
        if 'need at least one array to concatenate' not in str(error):
            raise
        raise empty from error
    if not number:
        raise empty
    return dataset
