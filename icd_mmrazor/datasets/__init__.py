"""Datasets that mmpretrain and mmrazor lack."""

from icd_mmrazor.datasets.cifar import VerifiedCIFAR10, VerifiedCIFAR100
from icd_mmrazor.datasets.degraded_view import DegradedView
from icd_mmrazor.datasets.gallery import GalleryDataset
from icd_mmrazor.datasets.image_as_in_dataset import ImageAsInDataset
from icd_mmrazor.datasets.in_memory import InMemoryBatches, crop_and_flip
from icd_mmrazor.datasets.indexed import IndexedDataset
from icd_mmrazor.datasets.knn import KNNDataset
from icd_mmrazor.datasets.long_tailed import LongTailed
from icd_mmrazor.datasets.noisy_labels import NoisyLabels
from icd_mmrazor.datasets.npz import NPZDataset
from icd_mmrazor.datasets.partly_labeled import PartlyLabeledDataset, UnlabeledDataset
from icd_mmrazor.datasets.partly_labeled_sampler import PartlyLabeledBatchSampler
from icd_mmrazor.datasets.pipelines import NotInMemoryError
from icd_mmrazor.datasets.queries import QueryDataset
from icd_mmrazor.datasets.square_cutout import SquareCutout
from icd_mmrazor.datasets.stl10 import STL10
from icd_mmrazor.datasets.tiny_imagenet import TinyImageNet
from icd_mmrazor.datasets.two_views import TwoViewDataset

__all__ = [
    'STL10',
    'DegradedView',
    'GalleryDataset',
    'ImageAsInDataset',
    'InMemoryBatches',
    'IndexedDataset',
    'KNNDataset',
    'LongTailed',
    'NPZDataset',
    'NoisyLabels',
    'NotInMemoryError',
    'PartlyLabeledBatchSampler',
    'PartlyLabeledDataset',
    'QueryDataset',
    'SquareCutout',
    'TinyImageNet',
    'TwoViewDataset',
    'UnlabeledDataset',
    'VerifiedCIFAR10',
    'VerifiedCIFAR100',
    'crop_and_flip',
]
