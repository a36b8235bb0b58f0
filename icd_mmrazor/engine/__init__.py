"""What happens around the training loop."""

from icd_mmrazor.engine.hooks import CheckLabelsHook, CheckNumbersHook, DistillationReportHook, PlainCheckpointHook

__all__ = ['CheckLabelsHook', 'CheckNumbersHook', 'DistillationReportHook', 'PlainCheckpointHook']
