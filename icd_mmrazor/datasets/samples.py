"""The labels of a batch: one data sample an image, or one for all."""

import torch
from mmpretrain.models import ClsHead, ImageClassifier
from mmpretrain.structures import DataSample
from torch import nn


def takes_joined_labels(model: nn.Module) -> bool:
    """Return whether a model may be given one data sample with all labels of a batch (:func:`as_one_sample`).

    It may where the networks' losses are computed by ``ClsHead`` of mmpretrain, which concatenates labels, and the data
    preprocessor leaves labels as they are. Other heads may count on a data sample for each image: those for several
    labels an image, for example, stack the targets that they make of each.

    Args:
        model: A classifier, or an algorithm of mmrazor with the student as ``architecture``, perhaps a ``teacher``.

    Returns:
        ``False`` also for networks and heads with a loss of their own, of which nothing is known.
    """
    if getattr(getattr(model, 'data_preprocessor', None), 'to_onehot', False):
        return False
    parts = [getattr(model, name) for name in ('architecture', 'teacher') if hasattr(model, name)]
    return all(
        _inherits(network, ImageClassifier, 'loss') and _inherits(network.head, ClsHead, 'loss', '_get_loss')
        for network in parts or [model]
    )


def _inherits(module: nn.Module | None, base: type, *methods: str) -> bool:
    return isinstance(module, base) and all(getattr(type(module), name) is getattr(base, name) for name in methods)


def as_one_sample(data_samples: list | None) -> list | None:
    """Join the data samples of a batch into one that holds all labels.

    Most of mmpretrain's heads concatenate the labels of the samples (:func:`takes_joined_labels`), so one sample with
    all of them means the same; a compiler has one object to look at, not one an image.

    Args:
        data_samples: mmpretrain's, each with ``gt_label``, or each without labels.

    Returns:
        A list of one sample, with ``gt_label`` (``B``) and ``sample_idx`` (a list of ``B`` positions) where the samples
        have one; the list as it was where they hold anything else, such as scores.
    """
    if not data_samples or len(data_samples) == 1:
        return data_samples
    if not all(isinstance(sample, DataSample) for sample in data_samples):
        return data_samples
    joined = DataSample()
    if any(sample.keys() for sample in data_samples):
        if not all(s.keys() == ['gt_label'] and s.gt_label.numel() == 1 for s in data_samples):
            return data_samples
        joined.set_gt_label(torch.cat([sample.gt_label for sample in data_samples]))
    if all('sample_idx' in sample for sample in data_samples):
        joined.set_metainfo({'sample_idx': [sample.sample_idx for sample in data_samples]})
    return [joined]


def without_labels(data_samples: list | None) -> bool:
    """Return whether the images of a batch have no labels.

    Args:
        data_samples: Those of the batch.

    Returns:
        ``True`` where no data sample is there, or one of mmpretrain's has neither labels nor scores. Of other data
        samples nothing is known.
    """
    return not data_samples or any(
        isinstance(sample, DataSample) and not {'gt_label', 'gt_score'} & {*sample.keys()} for sample in data_samples
    )


def positions_of(data_samples: list) -> list[int | None]:
    """Return which images of the training set a batch has.

    A loss with an argument ``data_samples`` reads them so, in either form of a batch::

        def forward(self, s_feature, t_feature, data_samples):
            positions = positions_of(data_samples)
            labels = torch.cat([sample.gt_label for sample in data_samples])

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
