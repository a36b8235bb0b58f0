"""Corrections of mmpretrain's optimizers."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmpretrain.engine.optimizers import Lamb
from torch import nn


def let_lamb_train_scalars() -> None:
    """Let ``Lamb`` update parameters without dimensions, such as the learned temperature of ICD.

    Where: mmpretrain, both families, ``Lamb.step``: it divides each gradient in place by a norm of shape ``(1,)``, and
    torch refuses to broadcast a scalar in place. During the step they have one dimension.
    """
    step = Lamb.step

    @functools.wraps(step)
    def step_of_all(self: Lamb, closure: Callable | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scalars = [p for group in self.param_groups for p in group['params'] if p.ndim == 0 and p.grad is not None]
        with _as_vectors(scalars):
            step(self)
        return loss

    Lamb.step = step_of_all


@contextlib.contextmanager
def _as_vectors(scalars: list[nn.Parameter]) -> Iterator[None]:
    for scalar in scalars:
        _reshape(scalar, (1,))
    try:
        yield
    finally:
        for scalar in scalars:
            _reshape(scalar, ())


def _reshape(parameter: nn.Parameter, shape: tuple[int, ...]) -> None:
    # torch wants the gradient in the shape of the parameter
    grad, parameter.grad = parameter.grad, None
    parameter.data = parameter.data.view(shape)
    parameter.grad = grad.view(shape)
