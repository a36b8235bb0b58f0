"""The augmented batch of a distillation."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from mmpretrain.registry import BATCH_AUGMENTS
from mmpretrain.structures import DataSample
from mmpretrain.structures.utils import label_to_onehot
from torch import Tensor, nn

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.datasets.samples import number_labeled, without_labels
from icd_mmrazor.errors import SettingError, did_you_mean
from icd_mmrazor.models import batch_augments
from icd_mmrazor.models.networks.preparation import preparation_by

KINDS = ('Mixup', 'CutMix', 'ResizeMix', *batch_augments.__all__)


class Batch(NamedTuple):
    """Images, ``B x C x H x W``, with their data samples; None if nothing reads any."""

    images: Tensor
    data_samples: list | None


def build_augmentation(owner: str, settings: Any, preprocessor: nn.Module) -> Callable:
    """Build an augmentation of whole batches.

    Args:
        owner: What has the setting ``augment``, for messages.
        settings: Its config, one of mmpretrain's ``BATCH_AUGMENTS``. One with ``mean`` and ``std`` gets those of the
            data preprocessor, unless they are set.
        preprocessor: The run's data preprocessor.

    Raises:
        SettingError: It is unknown, or does not take its settings.
    """
    if not isinstance(settings, Mapping) or not isinstance(settings.get('type'), str):
        raise SettingError(f"{owner}: augment={settings!r} must be a dict, such as dict(type='Mixup', alpha=0.2).")
    kind = type_name(settings['type'])
    cls = BATCH_AUGMENTS.get(kind) if kind in BATCH_AUGMENTS else None
    if cls is None:
        raise SettingError(f'{owner}: augment.type={kind!r} is not registered.{did_you_mean(kind, KINDS)}')
    # mmpretrain's insist on floats
    given = {
        name: float(value) if type(value) is int and name == 'alpha' else value for name, value in settings.items()
    }
    given = {name: value for name, value in given.items() if name not in ('type', '_scope_')}
    known, used = inspect.signature(cls).parameters, preparation_by(preprocessor)
    normalised = {name: getattr(used, name) for name in ('mean', 'std') if getattr(used, name) and name in known}
    try:
        return cls(**{**normalised, **given})
    except SettingError as error:
        raise SettingError(f'{owner}: augment: {error}') from error
    except (TypeError, AssertionError) as error:
        raise SettingError(
            f'{owner}: augment={dict(settings)!r} is refused by {cls.__name__}, which takes {", ".join(known)}. '
            f'{" ".join(str(error).split())}'.strip()
        ) from error


def augmented_batch(
    augment: Callable, batch: Batch, number_of_classes: int | None = None, reader: str | None = None
) -> Batch:
    """Augment a copy of a batch.

    Random numbers are drawn from numpy and torch's generator on the CPU, which ``ExactResumeHook`` seeds before each
    step.

    Args:
        augment: The augmentation.
        batch: The batch.
        number_of_classes: For the scores of mixed images.
        reader: What reads the labels of the augmented images, for messages; None: nothing does.

    Returns:
        The augmented images. Their data samples are those of the batch if nothing is mixed; otherwise they hold mixed
        scores, if anything reads labels.

    Raises:
        SettingError: Labels are read, and not all images have some.
    """
    images, samples = batch
    if reader is not None and (without_labels(samples) or number_labeled(samples, len(images)) is not None):
        raise SettingError(
            f'AugmentedDistill: {reader} reads the labels of all images, and some training images have none. Set '
            'model.augmented_student_weight=0 and use losses without labels, or use labelled images.'
        )
    mixes, scores = getattr(augment, 'mixes_images', True), images.new_zeros(len(images), 1)
    if mixes and reader is not None:
        scores = _scores(samples or [], len(images), number_of_classes).to(images)
    # a copy: CutMix works in place
    augmented, scores = augment(images.clone(), scores)
    if mixes:
        samples = None if reader is None else [DataSample().set_gt_score(score) for score in scores]
    return Batch(augmented, samples)


def _scores(samples: list, images: int, number_of_classes: int | None) -> Tensor:
    """Return the scores of the classes for each image, ``B x classes``, by its scores or its labels."""
    if all('gt_score' in sample for sample in samples):
        return torch.stack([sample.gt_score for sample in samples])
    if number_of_classes is None:
        raise SettingError(
            'AugmentedDistill: mixed images have scores of classes, and it is unknown how many there are. Set '
            'data_preprocessor.num_classes.'
        )
    if len(samples) == 1 < images:  # one for all
        samples = [DataSample().set_gt_label(label) for label in samples[0].gt_label]
    return torch.stack([label_to_onehot(sample.gt_label, number_of_classes) for sample in samples])
