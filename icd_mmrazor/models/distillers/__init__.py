"""Distillers: what is recorded, compared and added up."""

from icd_mmrazor.models.distillers.feature_distiller import FeatureDistiller
from icd_mmrazor.models.distillers.icd_distiller import ICDDistiller
from icd_mmrazor.models.distillers.mixed_distiller import MixedDistiller
from icd_mmrazor.models.distillers.simkd_distiller import SimKDDistiller

__all__ = ['FeatureDistiller', 'ICDDistiller', 'MixedDistiller', 'SimKDDistiller']
