"""Hooks made of parts."""

from collections.abc import Iterable

from mmengine.hooks import Hook
from mmengine.runner import Runner


class CompositeHook(Hook):
    """A hook whose parts, hooks with their own priorities, join those of the run when it starts.

    A part that the config itself names replaces the one of the same class.

    Args:
        parts: The parts.
    """

    # before all parts, so that they see the start of the run, too
    priority = 'HIGHEST'

    def __init__(self, parts: Iterable[Hook]) -> None:
        self.parts = list(parts)

    def before_run(self, runner: Runner) -> None:
        """Add the parts to the hooks of the run."""
        present = {type(hook) for hook in runner.hooks}
        for part in self.parts:
            if type(part) not in present:
                runner.register_hook(part)
