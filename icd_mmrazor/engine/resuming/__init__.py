"""Exact resume, the parts of ``ExactResumeHook``."""

from icd_mmrazor.engine.resuming.buffers import SyncSavedBuffersHook
from icd_mmrazor.engine.resuming.hook_states import HookStates
from icd_mmrazor.engine.resuming.loaded_state import LoadedState
from icd_mmrazor.engine.resuming.randomness import Randomness
from icd_mmrazor.engine.resuming.validation import DueValidation

__all__ = ['DueValidation', 'HookStates', 'LoadedState', 'Randomness', 'SyncSavedBuffersHook']
