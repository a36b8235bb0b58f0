"""A dataset of images to be classified by their nearest neighbours among labelled ones."""

from typing import Any

from mmpretrain.registry import DATASETS

from icd_mmrazor.datasets.partly_labeled import built_dataset, data_samples_of


@DATASETS.register_module()
class KNNDataset:
    """A bank of labelled images, then the images that ``KNNAccuracy`` classifies by it.

    Args:
        bank: The dataset of the bank, or its config: the training set, with the pipeline of a test. ``indices=5000``
            takes the first 5,000 of its images.
        queries: The dataset to be classified, or its config: the validation set.

    Raises:
        SettingError: One of them is not a dataset.

    Config example::

        val_dataloader=dict(dataset=dict(
            type='KNNDataset',
            bank=dict(type='CustomDataset', data_root='data/train', pipeline=[...]),
            queries=dict(type='CustomDataset', data_root='data/val', pipeline=[...])))
    """

    def __init__(self, bank: Any, queries: Any) -> None:
        name = type(self).__name__
        self.bank = built_dataset(bank, name, 'bank')
        self.queries = built_dataset(queries, name, 'queries')
        self.full_init()

    @property
    def datasets(self) -> list[Any]:
        """Both parts, as in mmengine's ``ConcatDataset``."""
        return [self.bank, self.queries]

    @property
    def metainfo(self) -> dict:
        """Information about the images, such as their classes."""
        return self.queries.metainfo

    def full_init(self) -> None:
        """Read the annotations, if they have not been read yet."""
        for part in self.datasets:
            part.full_init()

    def _place(self, idx: int) -> tuple[Any, int]:
        index = range(len(self))[idx]
        return (self.bank, index) if index < len(self.bank) else (self.queries, index - len(self.bank))

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of an image, with its position."""
        part, index = self._place(idx)
        return {**part.get_data_info(index), 'sample_idx': range(len(self))[idx]}

    def __len__(self) -> int:
        return len(self.bank) + len(self.queries)

    def __getitem__(self, idx: int) -> dict:
        part, index = self._place(idx)
        sample = part[index]
        for each in data_samples_of(sample, type(self).__name__):
            each.set_metainfo({'sample_idx': range(len(self))[idx], 'in_bank': part is self.bank})
        return sample
