"""Checks of a run, the parts of ``SanityCheckHook``."""

from icd_mmrazor.engine.checks.batches import BatchCheck
from icd_mmrazor.engine.checks.labels import LabelCheck
from icd_mmrazor.engine.checks.numbers import NumberCheck
from icd_mmrazor.engine.checks.preparation import PreparationCheck
from icd_mmrazor.engine.checks.provenance import ProvenanceCheck
from icd_mmrazor.engine.checks.watched_metrics import MetricCheck
from icd_mmrazor.engine.checks.weights import WeightCheck

__all__ = [
    'BatchCheck',
    'LabelCheck',
    'MetricCheck',
    'NumberCheck',
    'PreparationCheck',
    'ProvenanceCheck',
    'WeightCheck',
]
