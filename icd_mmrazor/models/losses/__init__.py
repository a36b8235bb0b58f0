"""Distillation losses, one file each."""

from icd_mmrazor.models.losses.icd_loss import ICDLoss

__all__ = ['ICDLoss']
