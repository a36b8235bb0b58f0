"""Augmentations of whole batches on the device, besides those of mmpretrain."""

from icd_mmrazor.models.batch_augments.batch_auto_augment import BatchAutoAugment
from icd_mmrazor.models.batch_augments.batch_cutout import BatchCutout

__all__ = ['BatchAutoAugment', 'BatchCutout']
