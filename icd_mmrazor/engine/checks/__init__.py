"""Checks of a run, the parts of ``SanityCheckHook``."""

from icd_mmrazor.engine.checks.batches import BatchCheck as BatchCheck
from icd_mmrazor.engine.checks.labels import LabelCheck as LabelCheck
from icd_mmrazor.engine.checks.numbers import NumberCheck as NumberCheck
from icd_mmrazor.engine.checks.preparation import PreparationCheck as PreparationCheck
from icd_mmrazor.engine.checks.provenance import ProvenanceCheck as ProvenanceCheck
from icd_mmrazor.engine.checks.schedules import ScheduleCheck as ScheduleCheck
from icd_mmrazor.engine.checks.statistics import StatisticsCheck as StatisticsCheck
from icd_mmrazor.engine.checks.validation import AverageCheck as AverageCheck
from icd_mmrazor.engine.checks.validation import ValidationCheck as ValidationCheck
from icd_mmrazor.engine.checks.views import ViewCheck as ViewCheck
from icd_mmrazor.engine.checks.watched_metrics import MetricCheck as MetricCheck
from icd_mmrazor.engine.checks.weights import WeightCheck as WeightCheck
