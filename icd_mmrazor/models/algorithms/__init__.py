"""Algorithms: what runs teacher and student."""

from icd_mmrazor.models.algorithms.boundary_sample_distill import BoundarySampleDistill
from icd_mmrazor.models.algorithms.frozen_teacher_distill import FrozenTeacherDistill

__all__ = ['BoundarySampleDistill', 'FrozenTeacherDistill']
