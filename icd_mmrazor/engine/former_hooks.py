"""Names of the hooks of version 0.1, for one release.

Configs stored with a run list them. Most are now parts of a hook, so that such a run is checked and resumed as before.
"""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.engine import checks, resuming
from icd_mmrazor.engine.composite import CompositeHook

PARTS = {
    'CheckBatchesHook': checks.BatchCheck,
    'CheckLabelsHook': checks.LabelCheck,
    'CheckMetricsHook': checks.MetricCheck,
    'CheckNumbersHook': checks.NumberCheck,
    'CheckPreparationHook': checks.PreparationCheck,
    'CheckResumeHook': checks.ProvenanceCheck,
    'CheckWeightsHook': checks.WeightCheck,
    'RepeatableRandomnessHook': resuming.Randomness,
    'ResumedValidationHook': resuming.DueValidation,
    'SyncSavedBuffersHook': resuming.SyncSavedBuffersHook,
}
for name, part in PARTS.items():
    HOOKS.register_module(name=name, module=part)


@HOOKS.register_module()
class HookStateHook(CompositeHook):
    """Store and restore the state of hooks."""

    def __init__(self) -> None:
        super().__init__([resuming.HookStates(), resuming.LoadedState()])


@HOOKS.register_module()
class StatusHook(Hook):
    """Do nothing: ``DistillationReportHook`` logs where a run stands."""

    def __init__(self, interval: float | None = None) -> None:
        pass


@HOOKS.register_module()
class Float32PrecisionHook(Hook):
    """Set TF32 as before, with a warning: ``torch`` has its own settings for it."""

    def __init__(self, tf32: bool) -> None:
        self.tf32 = tf32

    def before_run(self, runner: Runner) -> None:
        """Set the precision of the process."""
        precision = 'high' if self.tf32 else 'highest'
        runner.logger.warning(
            'Float32PrecisionHook will be removed. Call '
            f'torch.set_float32_matmul_precision({precision!r}) and set torch.backends.cudnn.allow_tf32={self.tf32}.'
        )
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = self.tf32


@HOOKS.register_module()
class FrozenFeatureHook(Hook):
    """Do nothing: ``LinearProbe`` computes the feature of an image once by itself."""
