"""Questions that hooks ask about a run."""

from collections.abc import Iterator
from typing import TypeVar

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import nn

HookT = TypeVar('HookT', bound=Hook)


def model_of(runner: Runner) -> nn.Module:
    """Return the model without the wrapper for several processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def is_training(runner: Runner) -> bool:
    """Return whether a run trains; one that only validates or tests has not built its training loop."""
    return isinstance(runner._train_loop, BaseLoop)


def counts_iterations(runner: Runner) -> bool:
    """Return whether the training loop counts iterations, not epochs."""
    return isinstance(runner._train_loop, IterBasedTrainLoop)


def steps_done(runner: Runner) -> int:
    """Return how many epochs, or iterations if the training loop counts them, are done."""
    return runner.iter if counts_iterations(runner) else runner.epoch


def hooks_of(runner: Runner, kind: type[HookT]) -> list[HookT]:
    """Return the hooks of a run that are of a class or derived from it."""
    return [hook for hook in runner.hooks if isinstance(hook, kind)]


def optimizers_of(runner: Runner) -> Iterator[OptimWrapper]:
    """Yield the optimizer wrappers of a run: one, or those of an ``OptimWrapperDict``."""
    wrapper = runner.optim_wrapper
    yield from wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
