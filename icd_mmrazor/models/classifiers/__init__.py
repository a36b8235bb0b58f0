"""Classifiers that mmpretrain and mmrazor lack."""

from icd_mmrazor.models.classifiers.linear_probe import LinearProbe, name_student_in_full

__all__ = ['LinearProbe', 'name_student_in_full']
