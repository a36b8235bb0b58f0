"""Exact resume."""

from mmengine.registry import HOOKS

from icd_mmrazor.engine.composite import CompositeHook
from icd_mmrazor.engine.resuming import DueValidation, HookStates, LoadedState, Randomness, SyncSavedBuffersHook


@HOOKS.register_module()
class ExactResumeHook(CompositeHook):
    """Let a run that is stopped anywhere and resumed end with the weights of one that was not, on a CPU bit for bit.

    What cannot be exact is refused or said in the log; ``docs/howto/training.md`` lists it.

    Config example::

        default_hooks=dict(exact_resume=dict(type='ExactResumeHook'))
    """

    def __init__(self) -> None:
        super().__init__([Randomness(), SyncSavedBuffersHook(), HookStates(), LoadedState(), DueValidation()])
