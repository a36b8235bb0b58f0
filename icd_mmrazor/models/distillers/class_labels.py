"""The class of each image, for losses that read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icd_mmrazor.errors import SettingError

# the argument of a loss that gets the labels of the batch, as in mmrazor's DKDLoss and WSLD
LABELS = 'gt_labels'
# the one that gets the data samples themselves
SAMPLES = 'data_samples'


@dataclass(frozen=True)
class ClassLabels:
    """Reads the labels of a batch from its data samples.

    Attributes:
        loss: The class of the loss, for messages.
        from_scores: Whether a mixed image counts as one of the class with the highest score. Otherwise scores are not
            read; a loss of labels is refused with mixed images before the training.
    """

    loss: str
    from_scores: bool = False

    def __call__(self, data_samples: Any) -> Tensor:
        """Return the class of each image, integers, ``B``.

        Args:
            data_samples: Data samples of mmpretrain, one for each image or one for all.

        Raises:
            SettingError: An image has no label, or several.
        """
        samples = data_samples if isinstance(data_samples, Sequence) else []
        if self.from_scores and samples and all('gt_score' in sample for sample in samples):
            return torch.cat([torch.atleast_2d(sample.gt_score) for sample in samples]).argmax(1)
        if not samples or not all('gt_label' in sample for sample in samples):
            raise SettingError(
                f'{self.loss} reads the class of each image, but the images have no labels. Use a dataset with labels, '
                'or a method that needs none.'
            )
        labels = [sample.gt_label for sample in samples]
        if len(labels) > 1 and any(label.numel() != 1 for label in labels):
            raise SettingError(
                f'{self.loss} reads one class for each image, but some images have several labels or none. Use '
                'BinaryKDLoss, or a method that compares features.'
            )
        return torch.cat(labels)
