"""What happens around the training loop."""

from icd_mmrazor.engine.hooks import CheckLabelsHook, CheckNumbersHook, DistillationReportHook, PlainCheckpointHook
from icd_mmrazor.engine.optim_wrappers import AutocastOptimWrapper

__all__ = [
    'AutocastOptimWrapper',
    'CheckLabelsHook',
    'CheckNumbersHook',
    'DistillationReportHook',
    'PlainCheckpointHook',
]
