"""Datasets that mmpretrain and mmrazor lack."""

from icd_mmrazor.datasets.cifar import VerifiedCIFAR10, VerifiedCIFAR100
from icd_mmrazor.datasets.indexed import IndexedDataset
from icd_mmrazor.datasets.npz import NPZDataset
from icd_mmrazor.datasets.whole_batches import NoWholeBatchesError, WholeBatches, crop_and_flip

__all__ = [
    'IndexedDataset',
    'NPZDataset',
    'NoWholeBatchesError',
    'VerifiedCIFAR10',
    'VerifiedCIFAR100',
    'WholeBatches',
    'crop_and_flip',
]
