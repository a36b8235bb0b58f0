"""Distillers: what is recorded, compared and added up."""

from icd_mmrazor.models.distillers.icd_distiller import ICDDistiller
from icd_mmrazor.models.distillers.mixed_distiller import MixedDistiller

__all__ = ['ICDDistiller', 'MixedDistiller']
