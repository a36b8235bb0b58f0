"""Datasets that mmpretrain and mmrazor lack."""

from icd_mmrazor.datasets.cifar import VerifiedCIFAR10, VerifiedCIFAR100
from icd_mmrazor.datasets.indexed import IndexedDataset
from icd_mmrazor.datasets.npz import NPZDataset

__all__ = ['IndexedDataset', 'NPZDataset', 'VerifiedCIFAR10', 'VerifiedCIFAR100']
