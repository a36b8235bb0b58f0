"""Some images of another dataset, perhaps with other labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.datasets.parts import built_dataset, data_samples_of
from icd_mmrazor.errors import DatasetError, SettingError


class SelectedDataset:
    """Base class of datasets that have some images of another one, each with its own or another label.

    The position of an image (``sample_idx``) is the one in this dataset.

    Args:
        dataset: The dataset or its config. Each of its images has one label.

    Raises:
        SettingError: It is neither.
        DatasetError: Its images do not have one label each.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = built_dataset(dataset, type(self).__name__, 'dataset')
        self.full_init()
        labels = image_labels(self.dataset)
        if labels is None:
            raise DatasetError(
                f'{type(self).__name__}: the images of dataset ({type(self.dataset).__name__}) do not have one integer '
                'label each. Give a classification dataset with labels.'
            )
        # of all images of the dataset; subclasses choose and change
        self.labels = labels.astype(np.int64)
        self.positions = np.arange(len(labels))
        classes = self.dataset.metainfo.get('classes')
        self.num_classes = len(classes) if classes else int(labels.max()) + 1

    def select(self, positions: Sequence[int] | np.ndarray) -> None:
        """Keep the images at these positions in the wrapped dataset, in this order."""
        self.labels, self.positions = self.labels[positions], self.positions[positions]

    @property
    def metainfo(self) -> dict:
        """Information about the dataset, such as its classes."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations, if they have not been read yet."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of an image, with its label and its position."""
        position = range(len(self))[idx]
        info = self.dataset.get_data_info(int(self.positions[position]))
        return {**info, 'gt_label': int(self.labels[position]), 'sample_idx': position}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class of an image, in a list."""
        return [int(self.labels[idx])]

    def get_gt_labels(self) -> np.ndarray:
        """Return the label of each image."""
        return self.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, idx: int) -> dict:
        position = range(len(self))[idx]
        sample = self.dataset[int(self.positions[position])]
        for each in data_samples_of(sample, type(self).__name__):
            each.set_gt_label(int(self.labels[position]))
            each.set_metainfo({'sample_idx': position})
        return sample


def first_images(owner: str, indices: Any, number: int) -> np.ndarray:
    """Return positions as mmengine's ``indices`` mean them: an integer for the first images, or a list.

    Args:
        owner: What has the setting, for messages.
        indices: The setting; None for all images.
        number: Number of images.

    Raises:
        SettingError: They are neither, or there are fewer images.
    """
    positions = range(number)
    if indices is None:
        return np.array(positions)
    several = isinstance(indices, Sequence) and not isinstance(indices, str)
    wanted = list(indices) if several else list(range(indices)) if type(indices) is int else []
    if not wanted or not all(type(i) is int and 0 <= i < number for i in wanted):
        raise SettingError(
            f'{owner}: indices={indices!r:.100} must be a number of images, up to {number:,}, or a list of their '
            'positions.'
        )
    return np.array(wanted)
