"""Metrics of an evaluation, which may be numbers or any other objects."""

import copy
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from mmengine.hooks import CheckpointHook
from torch import Tensor


def as_number(value: Any) -> float | int | None:
    """Return a metric as a Python number, None if it is not one; a tensor or array of one element is."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.item() if np.prod(value.shape) == 1 else None
    elif isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, Real) else None


def numbers_in(metrics: Mapping[str, Any]) -> dict[str, float | int]:
    """Return the metrics of an evaluation that are numbers, as Python's own."""
    numbers = {name: as_number(value) for name, value in metrics.items()}
    return {name: value for name, value in numbers.items() if value is not None}


def best_metric(hook: CheckpointHook, numbers: Iterable[str]) -> str | None:
    """Return the metric that ``save_best='auto'`` takes: the first number whose rule is given or known.

    Args:
        hook: The hook that saves the best checkpoint; not changed.
        numbers: Names of the metrics that are numbers, in their order.
    """
    for name in numbers:
        try:
            copy.copy(hook)._init_rule(hook.rules, [name])
        except ValueError:
            continue
        return name
    return None


def json_value(value: Any) -> Any:
    """Return a metric, or all of an evaluation, for JSON: arrays and sets as lists, other objects as text."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        # a sparse or quantized one cannot be listed
        value = (value.dequantize() if value.is_quantized else value.to_dense()).tolist()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [json_value(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
