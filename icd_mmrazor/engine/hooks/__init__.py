"""Hooks, each in its own file. They register in mmengine's registry, so that configs of every scope find them."""

import importlib
import pkgutil
from typing import Any

from mmengine.registry import HOOKS

from icd_mmrazor.engine.hooks.checkpoint_hook import IntactCheckpointHook as IntactCheckpointHook
from icd_mmrazor.engine.hooks.deferred_runtime_info_hook import DeferredRuntimeInfoHook as DeferredRuntimeInfoHook
from icd_mmrazor.engine.hooks.difficulty_hook import DifficultyHook as DifficultyHook
from icd_mmrazor.engine.hooks.distillation_report_hook import DistillationReportHook as DistillationReportHook
from icd_mmrazor.engine.hooks.exact_resume_hook import ExactResumeHook as ExactResumeHook
from icd_mmrazor.engine.hooks.export_student_hook import ExportStudentHook as ExportStudentHook
from icd_mmrazor.engine.hooks.in_memory_augmentation_hook import (
    InMemoryAugmentationHook as InMemoryAugmentationHook,
)
from icd_mmrazor.engine.hooks.loss_schedule_hook import LossScheduleHook as LossScheduleHook
from icd_mmrazor.engine.hooks.sample_memory_hook import SampleMemoryHook as SampleMemoryHook
from icd_mmrazor.engine.hooks.sanity_check_hook import SanityCheckHook as SanityCheckHook
from icd_mmrazor.engine.hooks.teacher_gallery_hook import TeacherGalleryHook as TeacherGalleryHook

# importing a module registers its classes: a new hook needs no line here
for _module in pkgutil.iter_modules(__path__, f'{__name__}.'):
    importlib.import_module(_module.name)


def __getattr__(name: str) -> Any:
    # classes of version 0.1, which configs in mmengine's pure Python style import from here
    found = HOOKS.module_dict.get(name)
    if found is not None and found.__module__.startswith('icd_mmrazor.'):
        return found
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
