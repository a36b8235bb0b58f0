"""Mixup, CutMix or ResizeMix of two images that follows from a key."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmpretrain.models import CutMix, Mixup, ResizeMix
from mmpretrain.structures import DataSample
from mmpretrain.structures.utils import label_to_onehot
from torch import Tensor

from icd_mmrazor.datasets.randomness import seed_all
from icd_mmrazor.errors import DatasetError, SettingError

KINDS = (Mixup, CutMix, ResizeMix)
SETTING = 'model.teacher_cache'


class KeyedMixing:
    """Mixing of an image with another one, where both and the mixture follow from a key.

    The augmentation, the other image, its share and its place are drawn for each image, not for each batch. The two are
    mixed by mmpretrain's own code. In a dataset of images with labels and without, both have labels, or none has.

    Args:
        augments: A ``RandomBatchAugment`` of mmpretrain, or one of its augmentations.
        num_classes: Number of classes, for the scores of a mixture.

    Raises:
        SettingError: There is another kind of augmentation, or the number of classes is unknown.
    """

    def __init__(self, augments: Any, num_classes: int | None) -> None:
        self.augments = list(getattr(augments, 'augments', [augments]))
        self.probs = getattr(augments, 'probs', None)
        self.num_classes = num_classes
        if num_classes is None:
            raise SettingError(f'{SETTING}: mixed images have scores of classes. Set data_preprocessor.num_classes.')
        for each in self.augments:
            if each is not None and type(each) not in KINDS:
                raise SettingError(
                    f'{SETTING}: {type(each).__name__} in data_preprocessor.batch_augments cannot mix fixed views. Use '
                    f'{", ".join(kind.__name__ for kind in KINDS)}, or remove {SETTING}.'
                )

    @property
    def description(self) -> list[Any]:
        """The augmentations with their settings and probabilities, as JSON."""
        kinds = [each and {'type': type(each).__name__, **vars(each)} for each in self.augments]
        return [kinds, self.probs]

    def __call__(self, dataset: Any, index: int, prepared: Callable[[int], Any], key: tuple[int, ...]) -> Any:
        """Prepare an image, mixed with another one of its dataset.

        Args:
            dataset: The dataset.
            index: The image.
            prepared: Prepares an image by its index, with random numbers that follow from it.
            key: What the mixture follows from.

        Returns:
            The sample of the image, with the mixture (``inputs``, float32) and its scores (``gt_score``).

        Raises:
            DatasetError: The images differ in shape, or have several views each.
        """
        seed_all(*key)
        augment = self.augments[np.random.choice(len(self.augments), p=self.probs)]  # noqa: NPY002
        other = _other(dataset, index)
        pair = [prepared(each) for each in ([index] if augment is None else [index, other])]
        inputs = [sample.get('inputs') if isinstance(sample, dict) else None for sample in pair]
        labelled = [sample.get('data_samples') for sample in pair if isinstance(sample, dict)]
        if not all(isinstance(each, Tensor) and each.shape == inputs[0].shape for each in inputs) or not all(
            isinstance(each, DataSample) for each in labelled
        ):
            raise DatasetError(
                f'{SETTING}: images {index} and {other} cannot be mixed, since they are not tensors of one shape with '
                'one data sample each. Resize them in the pipeline, or set data_preprocessor.batch_augments=None.'
            )
        images, scores = torch.stack(inputs).float(), torch.stack([self._scores(each) for each in labelled])
        if augment is not None:
            # after the images, which have drawn other numbers
            seed_all(*key, 1)
            torch.default_generator.manual_seed(_seed_of_exchange())
            images, scores = augment(images, scores)
        if scores.shape[1]:
            labelled[0].set_gt_score(scores[0])
        return {**pair[0], 'inputs': images[0]}

    def _scores(self, sample: DataSample) -> Tensor:
        if 'gt_score' in sample:
            return sample.gt_score.float()
        label = sample.get('gt_label')
        if label is None or not len(label):  # an image without labels
            return torch.zeros(0)
        return label_to_onehot(label, self.num_classes).float()


def _other(dataset: Any, index: int) -> int:
    """Draw another image, of those with labels or of those without."""
    first, last, labeled = 0, len(dataset), getattr(dataset, 'num_labeled', None)
    if labeled is not None:
        first, last = (0, labeled) if index < labeled else (labeled, last)
    return int(np.random.randint(first, last))  # noqa: NPY002


@functools.cache
def _seed_of_exchange() -> int:
    """Return a seed with which torch's random order of two images is the reverse: each is mixed with the other."""
    for seed in itertools.count():
        if torch.randperm(2, generator=torch.Generator().manual_seed(seed))[0] == 1:
            return seed
    raise AssertionError
