"""A dataset whose samples carry their index."""

from typing import Any

import numpy as np
from mmpretrain.registry import DATASETS

from icd_mmrazor.errors import DatasetError, SettingError


@DATASETS.register_module()
class IndexedDataset:
    """Any dataset, with the index of each sample in it as ``data_samples.sample_idx``.

    Methods that remember each training image (CRD) need it, and mmpretrain's own datasets have it; wrap others as a
    whole, such as mmengine's ``ConcatDataset``. Inside a ``RepeatDataset`` an image keeps its index in all repetitions;
    around one, each repetition has its own. :func:`icd_mmrazor.datasets.samples.sample_indices` reads the indices.

    Args:
        dataset: The dataset or its config.

    Raises:
        SettingError: It is neither.

    Config example::

        train_dataloader=dict(dataset=dict(
            type='IndexedDataset',
            dataset=dict(type='ConcatDataset', datasets=[dict(...), dict(...)])))
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not hasattr(self.dataset, 'get_data_info'):
            raise SettingError(
                f'IndexedDataset: dataset is a {type(dataset).__name__}; it must be a dataset of mmpretrain or '
                'mmengine, or its config: dataset=dict(type=...).'
            )

    @property
    def metainfo(self) -> dict:
        """Information about the dataset, such as its classes."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations, if they have not been read yet."""
        self.dataset.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of a sample, with its index."""
        index = range(len(self))[idx]
        return {**self.dataset.get_data_info(index), 'sample_idx': index}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of a sample."""
        return [int(label) for label in np.atleast_1d(self.get_data_info(idx)['gt_label'])]

    def get_gt_labels(self) -> np.ndarray:
        """Return the label of each sample; mmengine's wrappers cannot, so it is read from the annotations."""
        if hasattr(self.dataset, 'get_gt_labels'):
            return self.dataset.get_gt_labels()
        return np.array([self.dataset.get_data_info(index)['gt_label'] for index in range(len(self))])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict:
        index = range(len(self))[idx]
        sample = self.dataset[index]
        data_samples = sample.get('data_samples') if isinstance(sample, dict) else None
        # several views of an image have one each
        data_samples = data_samples if isinstance(data_samples, list) else [data_samples]
        if not all(hasattr(each, 'set_metainfo') for each in data_samples):
            raise DatasetError(
                "IndexedDataset: the dataset's pipeline returns no data_samples, which would carry the index. End it "
                "with dict(type='PackInputs')."
            )
        for each in data_samples:
            each.set_metainfo({'sample_idx': index})
        return sample
