"""Classifiers that mmpretrain and mmrazor lack."""

from icd_mmrazor.models.classifiers.linear_probe import LinearProbe
from icd_mmrazor.models.classifiers.probe_data_preprocessor import ProbeDataPreprocessor

__all__ = ['LinearProbe', 'ProbeDataPreprocessor']
