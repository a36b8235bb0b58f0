"""Algorithms, distillers, losses, connectors and backbones."""

from icd_mmrazor.models.algorithms import AugmentedDistill, FrozenTeacherDistill, MixupDistill
from icd_mmrazor.models.backbones import CIFARResNet
from icd_mmrazor.models.classifiers import LinearProbe
from icd_mmrazor.models.connectors import LinearProjection
from icd_mmrazor.models.distillers import FeatureDistiller, ICDDistiller, MixedDistiller
from icd_mmrazor.models.losses import FeatureLoss, ICDLoss
from icd_mmrazor.models.retrievers import InBatchRetrievalHead

__all__ = [
    'AugmentedDistill',
    'CIFARResNet',
    'FeatureDistiller',
    'FeatureLoss',
    'FrozenTeacherDistill',
    'ICDDistiller',
    'ICDLoss',
    'InBatchRetrievalHead',
    'LinearProbe',
    'LinearProjection',
    'MixedDistiller',
    'MixupDistill',
]
