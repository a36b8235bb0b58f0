"""Mixup, CutMix or the like in batches of which a part has labels."""

from typing import Any

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.datasets.samples import number_labeled, view_indices, without_labels


@MODELS.register_module()
class SeparateMixingPreprocessor(ClsDataPreprocessor):
    """mmpretrain's ``ClsDataPreprocessor`` that mixes images without labels, too, but never with labelled ones.

    In a batch of both (``PartlyLabeledDataset``), the labelled images are mixed among themselves with their labels,
    then the others among themselves, each with its own random numbers. A ``ClsDataPreprocessor`` leaves a batch
    without any labels as it is. ``FrozenTeacherDistill`` uses this class in its place if it has ``batch_augments``.
    Fixed views (:func:`~icd_mmrazor.datasets.views.number_views`) have been mixed already, and are not mixed again.

    Config example::

        data_preprocessor=dict(
            type='SeparateMixingPreprocessor',
            num_classes=10,
            batch_augments=dict(augments=dict(type='Mixup', alpha=0.8)))
    """

    leaves_mixed_views = True

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch, see the base class."""
        images, samples = data['inputs'], data.get('data_samples')
        if not training or self.batch_augments is None:
            return super().forward(data, training)
        if without_labels(samples):
            return self._mixed_without_labels(data)
        labeled = number_labeled(samples, len(images))
        mix = view_indices(samples) is None
        if labeled is None:
            return super().forward(data, mix)
        parts = [
            super().forward({'inputs': images[:labeled], 'data_samples': samples[:labeled]}, mix),
            self._mixed_without_labels({'inputs': images[labeled:], 'data_samples': samples[labeled:]}),
        ]
        return {
            'inputs': torch.cat([part['inputs'] for part in parts]),
            'data_samples': [sample for part in parts for sample in part['data_samples']],
        }

    def _mixed_without_labels(self, data: dict) -> dict:
        prepared = super().forward(data, training=False)
        if view_indices(data.get('data_samples')) is not None:
            return prepared
        images = prepared['inputs']
        # an augmentation expects scores, and mixes them too
        images, _ = self.batch_augments(images, images.new_zeros(len(images), 1))
        return {**prepared, 'inputs': images}


def mixing_separately(preprocessor: Any) -> Any:
    """Return a ``SeparateMixingPreprocessor`` like a ``ClsDataPreprocessor`` that mixes images; others unchanged."""
    if type(preprocessor) is not ClsDataPreprocessor or preprocessor.batch_augments is None:
        return preprocessor
    names = ('pad_size_divisor', 'pad_value', 'to_rgb', 'to_onehot', 'num_classes')
    other = SeparateMixingPreprocessor(**{name: getattr(preprocessor, name) for name in names})
    if preprocessor._enable_normalize:
        # the buffers as they are, not rounded again
        other._enable_normalize = True
        for name in ('mean', 'std'):
            other.register_buffer(name, getattr(preprocessor, name), persistent=False)
    other.batch_augments = preprocessor.batch_augments
    return other


def mixes_separately(preprocessor: nn.Module) -> bool:
    """Return whether a data preprocessor may be given images without labels, alone or with labelled ones."""
    return isinstance(preprocessor, SeparateMixingPreprocessor) or getattr(preprocessor, 'batch_augments', None) is None
