"""Two views of each image in a batch, the weakly augmented ones before the strongly augmented ones."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.registry import DATASETS, TRANSFORMS
from torch import Tensor

from icd_mmrazor.datasets.parts import built_dataset, data_samples_of
from icd_mmrazor.datasets.samples import AUGMENTATION, STRONG, WEAK
from icd_mmrazor.errors import DatasetError, SettingError

NAME = 'TwoViewDataset'


@DATASETS.register_module()
class TwoViewDataset:
    """A dataset whose batches contain two views of each image: the weak ones of all images, then the strong ones.

    The weak view is what the dataset's pipeline gives, with its random crop and flip, for instance. The strong view is
    made by the pipeline too, with other random numbers, and then by further transforms. So a batch of ``batch_size``
    images has twice as many views, each with the label and the position of its image. A data sample says which view it
    is of (``augmentation``, ``'weak'`` or ``'strong'``);
    :func:`~icd_mmrazor.datasets.samples.number_of_weak_views` tells a loss where the strong ones start. The length of
    the dataset, of an epoch and ``batch_size`` count images.

    The wrapper is the outermost: a DataLoader asks it for a whole batch, and one image alone (``dataset[0]``) is its
    weak view. Weak views have the random numbers that they have without it. ``InMemoryAugmentationHook`` crops and
    flips both views at once, and applies ``strong`` to one image at a time.

    A loss that does not read views takes the two views of an image for two images. The student's own loss is the mean
    over both. A teacher cache has one view of an image in a batch, and is not used.

    Args:
        dataset: The dataset or its config. Its pipeline ends with ``PackInputs``.
        strong: Transforms of mmpretrain, or their configs, that are applied to a strong view after the pipeline's, to
            ``img`` alone: ``H x W x C``, with the channels in the pipeline's order. They keep its size. Without any,
            both views are made alike.

    Raises:
        SettingError: ``dataset`` is not a dataset, or images of it have labels and others have not; ``strong`` is not a
            list of transforms.
        DatasetError: An image is not a tensor ``C x H x W``, or a transform changes its size or leaves it out.

    Config example::

        train_dataloader=dict(dataset=dict(
            type='TwoViewDataset',
            strong=[dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=10)],
            dataset=dict(type='VerifiedCIFAR100', ...)))
    """

    views = 2

    def __init__(self, dataset: Any, strong: Sequence[dict | Callable] = ()) -> None:
        self.dataset = built_dataset(dataset, NAME, 'dataset')
        if hasattr(self.dataset, 'num_labeled') or getattr(self.dataset, 'views', 1) != 1:
            raise SettingError(
                f'{NAME}: dataset is a {type(self.dataset).__name__}, of which a batch has a given order already. Give '
                'a dataset whose images all have labels, or all have none.'
            )
        if not isinstance(strong, list | tuple) or not all(isinstance(each, dict) or callable(each) for each in strong):
            raise SettingError(
                f"{NAME}: strong={strong!r} must be a list of transforms, such as [dict(type='RandAugment', ...)]; [] "
                'makes both views alike.'
            )
        self.strong = [TRANSFORMS.build(each) if isinstance(each, dict) else each for each in strong]

    @property
    def metainfo(self) -> dict:
        """Information about the dataset, such as its classes."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations, if they have not been read yet."""
        self.dataset.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of an image."""
        return self.dataset.get_data_info(idx)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict:
        """Prepare the weak view of an image."""
        return self._view(idx, WEAK)

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Prepare a batch: the weak views of all images, then the strong ones."""
        samples = [self._view(index, WEAK) for index in indices]
        for index in indices:
            sample = self._view(index, STRONG)
            samples.append({**sample, 'inputs': transformed(sample['inputs'], self.strong)})
        return samples

    def _view(self, index: int, augmentation: str) -> dict:
        sample = self.dataset[index]
        for each in data_samples_of(sample, NAME):
            each.set_metainfo({AUGMENTATION: augmentation})
        if not isinstance(sample.get('inputs'), Tensor) or sample['inputs'].ndim != 3:
            raise DatasetError(
                f"{NAME}: the dataset's pipeline does not return image {index} as a tensor, C x H x W. End it with "
                "dict(type='PackInputs')."
            )
        return sample


def transformed(image: Tensor, transforms: Sequence[Callable]) -> Tensor:
    """Apply transforms of mmpretrain to an image that has been packed.

    Args:
        image: The image, ``C x H x W``, on the CPU.
        transforms: The transforms, which get it as an array, ``H x W x C``.

    Raises:
        DatasetError: One of them leaves it out or changes its size.
    """
    if not transforms:
        return image
    array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    results: Any = {'img': array, 'img_shape': array.shape[:2], 'ori_shape': array.shape[:2]}
    for transform in transforms:
        try:
            results = transform(results)
        except Exception as error:  # whatever it raises, for a number of channels that it does not take, for instance
            raise DatasetError(
                f'{NAME}: {type(transform).__name__} in strong does not take an image of shape {array.shape}: {error}'
            ) from error
        made = results.get('img') if isinstance(results, dict) else None
        if not isinstance(made, np.ndarray) or (made.shape[:2], made.size) != (array.shape[:2], array.size):
            found = made.shape if isinstance(made, np.ndarray) else 'nothing'
            raise DatasetError(
                f'{NAME}: {type(transform).__name__} in strong made {found} of an image of shape {array.shape}. What '
                "crops, resizes or packs images belongs in the dataset's own pipeline."
            )
    made = made.astype(array.dtype, copy=False).reshape(array.shape)
    return torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))
