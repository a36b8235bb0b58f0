"""Exact resume, the parts of ``ExactResumeHook``."""

from icd_mmrazor.engine.resuming.buffers import SyncSavedBuffersHook as SyncSavedBuffersHook
from icd_mmrazor.engine.resuming.hook_states import HookStates as HookStates
from icd_mmrazor.engine.resuming.loaded_state import LoadedState as LoadedState
from icd_mmrazor.engine.resuming.randomness import Randomness as Randomness
from icd_mmrazor.engine.resuming.validation import DueValidation as DueValidation
