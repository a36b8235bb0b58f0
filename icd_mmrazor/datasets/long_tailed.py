"""A dataset whose classes differ in size."""

from typing import Any

import numpy as np
from mmpretrain.registry import DATASETS

from icd_mmrazor import checks
from icd_mmrazor.datasets.selected import SelectedDataset
from icd_mmrazor.errors import DatasetError, SettingError


@DATASETS.register_module()
class LongTailed(SelectedDataset):
    r"""Any dataset with class imbalance: each class keeps fewer images than the one before it, by a power law.

    As in the code of the lab behind *Knowledge Distillation Beyond Model Compression* (Sarfraz et al., ICPR
    2020, arXiv 2007.01922; NeurAI-Lab/InBiaseD): of class :math:`c = 1, \dots, C`, the first
    :math:`n_c = \mathrm{round}(a / (b + c^\gamma))` images are kept, with :math:`a` and :math:`b` such that
    :math:`n_1` is ``most`` and :math:`n_C` is ``fewest``. The larger :math:`\gamma`, the more images the classes in the
    middle keep. Train on it, and validate on a balanced dataset.

    Args:
        dataset: The dataset or its config. Each of its images has one label.
        gamma: The exponent, greater than 0. On CIFAR-10, 1 keeps 10,421 images and 2 keeps 14,402.
        most: Number of images of the first class.
        fewest: Number of images of the last class.

    Raises:
        SettingError: A setting is out of range.
        DatasetError: The images do not have one label each, or a class has fewer images than it should keep.

    Config example::

        train_dataloader=dict(dataset=dict(type='LongTailed', gamma=1.0, dataset=dict(type='CIFAR10', ...)))
    """

    def __init__(self, dataset: Any, gamma: float, most: int = 5000, fewest: int = 250) -> None:
        self.gamma = checks.positive(self, 'gamma', gamma)
        self.most, self.fewest = checks.positive_int(self, 'most', most), checks.positive_int(self, 'fewest', fewest)
        if fewest > most:
            raise SettingError(f'LongTailed: fewest={fewest} is more than most={most}. Swap them.')
        super().__init__(dataset)
        kept = []
        for label, number in enumerate(class_sizes(self.num_classes, gamma, most, fewest)):
            found = np.flatnonzero(self.labels == label)
            if len(found) < number:
                raise DatasetError(
                    f'LongTailed: class {label} should keep {number:,} images, and dataset has {len(found):,}. Lower '
                    'most and fewest.'
                )
            kept.append(found[:number])
        self.select(np.concatenate(kept))


def class_sizes(classes: int, gamma: float, most: int, fewest: int) -> list[int]:
    """Return how many images each class keeps, by the power law of :class:`LongTailed`."""
    if classes == 1 or most == fewest:
        return [most] * classes
    b = (fewest * classes**gamma - most) / (most - fewest)
    return [round(most * (1 + b) / (b + c**gamma)) for c in range(1, classes + 1)]
