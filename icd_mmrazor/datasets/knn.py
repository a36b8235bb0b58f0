"""A dataset of images to be classified by their nearest neighbours among labelled ones."""

from typing import Any

from mmpretrain.registry import DATASETS

from icd_mmrazor.datasets.parts import TwoParts, built_dataset, data_samples_of


@DATASETS.register_module()
class KNNDataset(TwoParts):
    """A bank of labelled images, then those that a metric compares with them: ``KNNAccuracy``, ``RetrievalPrecision``.

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

    def __getitem__(self, idx: int) -> dict:
        part, index, position = self._place(idx)
        sample = part[index]
        for each in data_samples_of(sample, type(self).__name__):
            each.set_metainfo({'sample_idx': position, 'in_bank': part is self.bank})
        return sample
