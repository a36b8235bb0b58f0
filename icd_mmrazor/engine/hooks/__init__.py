"""Hooks. They register in mmengine's registry, so that configs of every scope find them."""

import importlib
import pkgutil

from icd_mmrazor.engine.hooks.check_batches_hook import CheckBatchesHook
from icd_mmrazor.engine.hooks.check_labels_hook import CheckLabelsHook
from icd_mmrazor.engine.hooks.check_metrics_hook import CheckMetricsHook
from icd_mmrazor.engine.hooks.check_numbers_hook import CheckNumbersHook
from icd_mmrazor.engine.hooks.check_preparation_hook import CheckPreparationHook
from icd_mmrazor.engine.hooks.check_resume_hook import CheckResumeHook
from icd_mmrazor.engine.hooks.check_weights_hook import CheckWeightsHook
from icd_mmrazor.engine.hooks.deferred_runtime_info_hook import DeferredRuntimeInfoHook
from icd_mmrazor.engine.hooks.distillation_report_hook import DistillationReportHook
from icd_mmrazor.engine.hooks.export_student_hook import ExportStudentHook
from icd_mmrazor.engine.hooks.float32_precision_hook import Float32PrecisionHook
from icd_mmrazor.engine.hooks.frozen_feature_hook import FrozenFeatureHook
from icd_mmrazor.engine.hooks.hook_state_hook import HookStateHook
from icd_mmrazor.engine.hooks.initial_stage_hook import InitialStageHook
from icd_mmrazor.engine.hooks.plain_checkpoint_hook import PlainCheckpointHook
from icd_mmrazor.engine.hooks.repeatable_randomness_hook import RepeatableRandomnessHook
from icd_mmrazor.engine.hooks.resumed_validation_hook import ResumedValidationHook
from icd_mmrazor.engine.hooks.sample_memory_hook import SampleMemoryHook
from icd_mmrazor.engine.hooks.status_hook import StatusHook
from icd_mmrazor.engine.hooks.sync_saved_buffers_hook import SyncSavedBuffersHook
from icd_mmrazor.engine.hooks.whole_batch_hook import WholeBatchHook

__all__ = [
    'CheckBatchesHook',
    'CheckLabelsHook',
    'CheckMetricsHook',
    'CheckNumbersHook',
    'CheckPreparationHook',
    'CheckResumeHook',
    'CheckWeightsHook',
    'DeferredRuntimeInfoHook',
    'DistillationReportHook',
    'ExportStudentHook',
    'Float32PrecisionHook',
    'FrozenFeatureHook',
    'HookStateHook',
    'InitialStageHook',
    'PlainCheckpointHook',
    'RepeatableRandomnessHook',
    'ResumedValidationHook',
    'SampleMemoryHook',
    'StatusHook',
    'SyncSavedBuffersHook',
    'WholeBatchHook',
]

# importing a module registers its classes: a new hook needs no line here
for _module in pkgutil.iter_modules(__path__, f'{__name__}.'):
    importlib.import_module(_module.name)
