"""The index of every sample in the whole set."""

from typing import Any

import numpy as np
from mmpretrain.registry import DATASETS

from icd_mmrazor.errors import DatasetError, SettingError


@DATASETS.register_module()
class IndexedDataset:
    """Any dataset, its samples marked with their position in it: ``data_samples.sample_idx``.

    Methods that remember something of each training image need that (CRD). ``PackInputs`` packs the position in a
    plain dataset already. Wrap what has no positions of its own, mmengine's ``ConcatDataset`` for example, or what is
    packed without ``sample_idx``. Wrap the whole, not its parts. mmengine's ``RepeatDataset`` and
    ``ClassBalancedDataset`` may be outside, where an image keeps one index however often it comes, or inside, where
    each repetition has its own.

    A batch may have one data sample for all its images, with a list of their positions (``WholeBatchHook``): read them
    with ``icd_mmrazor.utils.positions_of(data_samples)``.

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
        """What the dataset says of itself, its classes for example."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations, if that is still to do."""
        self.dataset.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of a sample.

        Args:
            idx: Its position.
        """
        position = range(len(self))[idx]
        return {**self.dataset.get_data_info(position), 'sample_idx': position}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of a sample.

        Args:
            idx: Its position.
        """
        return [int(label) for label in np.atleast_1d(self.get_data_info(idx)['gt_label'])]

    def get_gt_labels(self) -> np.ndarray:
        """Return the label of each sample; mmengine's wrappers cannot, so it is read from the annotations."""
        if hasattr(self.dataset, 'get_gt_labels'):
            return self.dataset.get_gt_labels()
        return np.array([self.dataset.get_data_info(position)['gt_label'] for position in range(len(self))])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict:
        position = range(len(self))[idx]
        sample = self.dataset[position]
        data_samples = sample.get('data_samples') if isinstance(sample, dict) else None
        # of several views of an image each has one
        data_samples = data_samples if isinstance(data_samples, list) else [data_samples]
        if not all(hasattr(each, 'set_metainfo') for each in data_samples):
            raise DatasetError(
                'IndexedDataset marks the data_samples of a sample, but its pipeline gives none. End the pipeline '
                "with dict(type='PackInputs')."
            )
        for each in data_samples:
            each.set_metainfo({'sample_idx': position})
        return sample
