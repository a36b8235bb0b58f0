"""Metrics of a distillation. They register in mmengine's registry, so that configs of every scope find them."""

from icd_mmrazor.engine.evaluation.knn_accuracy import KNNAccuracy
from icd_mmrazor.engine.evaluation.teacher_agreement import TeacherAgreement

__all__ = ['KNNAccuracy', 'TeacherAgreement']
