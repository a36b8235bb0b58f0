"""Classifiers that mmpretrain and mmrazor lack."""

from icd_mmrazor.models.classifiers.linear_probe import LinearProbe, name_student_in_full
from icd_mmrazor.models.classifiers.probe_data_preprocessor import ProbeDataPreprocessor

__all__ = ['LinearProbe', 'ProbeDataPreprocessor', 'name_student_in_full']
