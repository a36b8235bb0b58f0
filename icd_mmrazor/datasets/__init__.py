"""Datasets that mmpretrain and mmrazor lack."""

from icd_mmrazor.datasets.cifar import VerifiedCIFAR10, VerifiedCIFAR100
from icd_mmrazor.datasets.npz import NPZDataset

__all__ = ['NPZDataset', 'VerifiedCIFAR10', 'VerifiedCIFAR100']
