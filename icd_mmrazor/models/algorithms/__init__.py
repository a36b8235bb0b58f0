"""Algorithms: what runs teacher and student."""

from icd_mmrazor.models.algorithms.expert_selection_distill import ExpertSelectionDistill
from icd_mmrazor.models.algorithms.frozen_teacher_distill import FrozenTeacherDistill

__all__ = ['ExpertSelectionDistill', 'FrozenTeacherDistill']
