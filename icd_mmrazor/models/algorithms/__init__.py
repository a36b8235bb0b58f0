"""Algorithms: what runs teacher and student."""

from icd_mmrazor.models.algorithms.augmented_distill import AugmentedDistill, MixupDistill
from icd_mmrazor.models.algorithms.boundary_sample_distill import BoundarySampleDistill
from icd_mmrazor.models.algorithms.expert_selection_distill import ExpertSelectionDistill
from icd_mmrazor.models.algorithms.frozen_teacher_distill import FrozenTeacherDistill

__all__ = [
    'AugmentedDistill',
    'BoundarySampleDistill',
    'ExpertSelectionDistill',
    'FrozenTeacherDistill',
    'MixupDistill',
]
