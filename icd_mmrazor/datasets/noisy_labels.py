"""A dataset of which some labels are wrong."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmpretrain.registry import DATASETS

from icd_mmrazor import checks
from icd_mmrazor.datasets.selected import SelectedDataset, first_images
from icd_mmrazor.errors import SettingError


@DATASETS.register_module()
class NoisyLabels(SelectedDataset):
    """Any dataset with label noise: some of its labels are drawn at random.

    Symmetric noise, as in the code of the lab behind *Knowledge Distillation Beyond Model Compression* (Sarfraz
    et al., ICPR 2020, arXiv 2007.01922; NeurAI-Lab/CURE): with this probability, the label of an image is replaced by
    one drawn uniformly from **all** classes, the true one included. With ten classes, 18 % of the labels are therefore
    wrong at a probability of 0.2. The noise follows from the seed alone: teacher, students and resumed runs have the
    same wrong labels. Train on it, and validate on a dataset with true labels.

    Args:
        dataset: The dataset or its config. Each of its images has one label.
        probability: The probability that a label is drawn at random, from 0 to 1.
        seed: Seed of the noise.
        indices: Which images to keep once the noise has been drawn for all of them, as in mmengine's datasets: an
            integer for the first ones, or a list of positions. All by default.

    Raises:
        SettingError: A setting is out of range.
        DatasetError: The images do not have one label each.

    Config example, two fifths of the labels drawn at random::

        train_dataloader=dict(dataset=dict(type='NoisyLabels', probability=0.4, dataset=dict(type='CIFAR10', ...)))
    """

    def __init__(
        self, dataset: Any, probability: float, seed: int = 12345, indices: int | Sequence[int] | None = None
    ) -> None:
        if not checks.is_number(probability) or not 0 <= probability <= 1:
            raise SettingError(
                f'NoisyLabels: probability={probability!r} must be a number from 0, no noise, to 1, all labels random.'
            )
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise SettingError(f'NoisyLabels: seed={seed!r} must be an integer from 0 to 2**32 - 1.')
        super().__init__(dataset)
        self.probability, self.seed = probability, seed
        # the draws of the published code, which seeds NumPy's global generator
        generator = np.random.RandomState(seed)
        drawn = generator.rand(len(self.labels)) <= probability
        self.labels = self.labels.copy()
        self.labels[drawn] = generator.choice(self.num_classes, drawn.sum())
        self.select(first_images('NoisyLabels', indices, len(self)))
