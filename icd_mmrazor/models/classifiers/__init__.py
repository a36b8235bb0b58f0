"""Classifiers that mmpretrain and mmrazor lack."""

from icd_mmrazor.models.classifiers.branched_classifier import BranchedClassifier
from icd_mmrazor.models.classifiers.feature_classifier import FeatureClassifier
from icd_mmrazor.models.classifiers.linear_probe import LinearProbe, name_student_in_full
from icd_mmrazor.models.classifiers.projected_classifier import ProjectedClassifier
from icd_mmrazor.models.classifiers.teacher_probe import TeacherProbe, name_teacher_in_full

__all__ = [
    'BranchedClassifier',
    'FeatureClassifier',
    'LinearProbe',
    'ProjectedClassifier',
    'TeacherProbe',
    'name_student_in_full',
    'name_teacher_in_full',
]
