"""Data samples of a batch: one for each image, or one for all of them."""

from typing import Any

import torch
from mmpretrain.models import ClsHead, ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from icd_mmrazor.datasets.parts import data_samples_of
from icd_mmrazor.errors import SettingError

# what an image may have for labels: classes, or a score of each
LABELS = {'gt_label', 'gt_score'}
# in the metadata of an image without a label, in a batch with labelled ones
UNLABELED = 'unlabeled'
# in the metadata of an image whose view has a number
VIEW = 'view_idx'
# in the metadata of one of two views of an image in a batch, weakly or strongly augmented
AUGMENTATION = 'augmentation'
WEAK, STRONG = 'weak', 'strong'


def accepts_merged_samples(model: nn.Module) -> bool:
    """Return whether a model accepts one data sample with all labels of a batch (:func:`merge_samples`).

    It does if mmpretrain's ``ClsHead``, which concatenates labels, computes the losses of all its networks, and the
    data preprocessor leaves labels as they are.
    """
    if getattr(getattr(model, 'data_preprocessor', None), 'to_onehot', False):
        return False
    parts = [getattr(model, name) for name in ('architecture', 'teacher') if hasattr(model, name)]
    # several teachers
    parts = [network for part in parts for network in getattr(part, 'members', [part])]
    return all(
        _inherits(network, ImageClassifier, 'loss') and _inherits(network.head, ClsHead, 'loss', '_get_loss')
        for network in parts or [model]
    )


def _inherits(module: nn.Module | None, base: type, *methods: str) -> bool:
    return isinstance(module, base) and all(getattr(type(module), name) is getattr(base, name) for name in methods)


def mark_unlabeled(data_sample: DataSample, empty: Tensor | None = None) -> None:
    """Mark an image of a batch with labelled ones as one without a label.

    Its ``empty`` label, on the device of the others, keeps the joined labels of a batch those of the labelled images.
    """
    data_sample.set_gt_label(torch.empty(0, dtype=torch.int64) if empty is None else empty)
    data_sample.set_metainfo({UNLABELED: True})


def number_labeled(data_samples: list | None, images: int) -> int | None:
    """Return how many images of a batch have labels, if some have and some have not; they come first.

    Args:
        data_samples: The data samples of the batch, one for each image or one for all.
        images: Number of images in the batch.

    Raises:
        SettingError: They do not come first.
    """
    if not data_samples:
        return None
    if len(data_samples) == 1 < images:
        labels = data_samples[0].get('gt_label')
        return None if labels is None or len(labels) == images else len(labels)
    unlabeled = [isinstance(sample, DataSample) and UNLABELED in sample for sample in data_samples]
    number = unlabeled.count(False)
    if number in (0, len(data_samples)):
        return None
    if any(unlabeled[:number]):
        raise SettingError(
            'The labelled images of a batch must come before those without labels. Set '
            "train_dataloader.batch_sampler=dict(type='PartlyLabeledBatchSampler', unlabeled=...)."
        )
    return number


def merge_samples(data_samples: list | None) -> list | None:
    """Merge the data samples of a batch into one, so that a compiler sees one object instead of one per image.

    Returns:
        A list of one sample with the ``gt_label`` (``B``, or as many as images have labels) and the ``sample_idx``,
        ``view_idx`` and ``augmentation`` (lists of ``B``) that all samples have; the list unchanged if they hold
        anything else, such as scores.
    """
    if not data_samples or len(data_samples) == 1:
        return data_samples
    if not all(isinstance(sample, DataSample) for sample in data_samples):
        return data_samples
    merged = DataSample()
    if any(sample.keys() for sample in data_samples):
        if not all(s.keys() == ['gt_label'] and s.gt_label.numel() == 1 - (UNLABELED in s) for s in data_samples):
            return data_samples
        merged.set_gt_label(torch.cat([sample.gt_label for sample in data_samples]))
    for name in ('sample_idx', VIEW, AUGMENTATION):
        if all(name in sample for sample in data_samples):
            merged.set_metainfo({name: [sample.get(name) for sample in data_samples]})
    return [merged]


def without_labels(data_samples: list | None) -> bool:
    """Return whether a batch has no data samples, or one of mmpretrain's has neither labels nor scores."""
    return not data_samples or any(
        isinstance(sample, DataSample) and not LABELS & {*sample.keys()} for sample in data_samples
    )


def sample_indices(data_samples: list) -> list[int | None]:
    """Return the positions of a batch's images in the training set.

    A loss with an argument ``data_samples`` reads them like this, whether there is one for each image or one for all::

        def forward(self, s_feature, t_feature, data_samples):
            indices = sample_indices(data_samples)
            labels = torch.cat([sample.gt_label for sample in data_samples])

    A data sample without ``sample_idx`` gives ``None``.
    """
    return _each(data_samples, 'sample_idx')


def number_of_weak_views(data_samples: list | None) -> int | None:
    """Return how many images a batch has two views of: first the weak view of each, then the strong one of each.

    :class:`~icd_mmrazor.datasets.two_views.TwoViewDataset` makes such batches.

    Args:
        data_samples: The data samples of the batch, one for each view or one for all.

    Returns:
        None if it is another batch.
    """
    found = _each(data_samples or [], AUGMENTATION)
    images = len(found) // 2
    return images if images and found == [WEAK] * images + [STRONG] * images else None


def _each(data_samples: list, name: str) -> list[Any]:
    """Return what the metadata of each image of a batch has under a name, None if nothing."""
    values: list[Any] = []
    for sample in data_samples:
        value = sample.get(name)
        values.extend(value if isinstance(value, list | tuple) else [value])
    return values


def number_view(sample: Any, number: int) -> None:
    """Note down the number of an image's view in its data samples.

    Raises:
        DatasetError: The pipeline of the dataset returns none.
    """
    for each in data_samples_of(sample, 'model.teacher_cache'):
        each.set_metainfo({VIEW: number})


def view_indices(data_samples: list | None) -> list[int] | None:
    """Return the numbers of the views in a batch, among those of all training images; None if they have none.

    A run with a teacher cache numbers them (:func:`~icd_mmrazor.datasets.views.number_views`).

    Args:
        data_samples: The data samples of the batch, one for each image or one for all.
    """
    numbers: list[int] = []
    for sample in data_samples or []:
        found = sample.get(VIEW)
        if found is None:
            return None
        numbers.extend(found if isinstance(found, list | tuple) else [found])
    return numbers or None


# its name in 0.1, which losses of users import
positions_of = sample_indices
