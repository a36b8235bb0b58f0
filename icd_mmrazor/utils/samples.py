"""The labels of a batch: one data sample an image, or one for all."""

import torch
from mmpretrain.structures import DataSample


def as_one_sample(data_samples: list | None) -> list | None:
    """Join the data samples of a batch into one that holds all labels.

    mmpretrain's heads concatenate the labels of the samples, so one sample with all of them means the same; a compiler
    has one object to look at, not one an image.

    Args:
        data_samples: mmpretrain's, each with ``gt_label``.

    Returns:
        A list of one sample, with ``gt_label`` (``B``) and ``sample_idx`` (a list of ``B`` positions) where the samples
        have one; the list as it was where they hold anything else, such as scores.
    """
    if not data_samples or len(data_samples) == 1:
        return data_samples
    if not all(
        isinstance(s, DataSample) and s.keys() == ['gt_label'] and s.gt_label.numel() == 1 for s in data_samples
    ):
        return data_samples
    labels = torch.cat([sample.gt_label for sample in data_samples])
    if len(labels) != len(data_samples):  # several labels an image
        return data_samples
    joined = DataSample().set_gt_label(labels)
    if all('sample_idx' in sample for sample in data_samples):
        joined.set_metainfo({'sample_idx': [sample.sample_idx for sample in data_samples]})
    return [joined]


def positions_of(data_samples: list) -> list[int | None]:
    """Return which images of the training set a batch has.

    Args:
        data_samples: Those of the batch: one an image with its ``sample_idx``, or one for all with a list of them.

    Returns:
        The positions in the order of the batch; ``None`` for a data sample without any.
    """
    positions = []
    for sample in data_samples:
        position = sample.get('sample_idx')
        positions.extend(position if isinstance(position, list | tuple) else [position])
    return positions
