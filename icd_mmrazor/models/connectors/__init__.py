"""Modules between a recorded feature and a loss."""

from icd_mmrazor.models.connectors.linear_projection import LinearProjection

__all__ = ['LinearProjection']
