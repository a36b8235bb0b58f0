"""Plain values, which ``torch.load(weights_only=True)`` reads."""

from collections import OrderedDict
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

# besides tensors and containers
PLAIN_TYPES = (bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device)


def is_plain(value: Any) -> bool:
    """Return whether ``torch.load(weights_only=True)`` reads a value.

    Args:
        value: Anything.
    """
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple, torch.Size) and all(map(is_plain, value))
    return value is None or isinstance(value, Tensor) or type(value) in PLAIN_TYPES


def plain_value(value: Any) -> Any:
    """Write numpy's values and special containers as Python's own.

    Args:
        value: Anything; what has no plain form stays as it is.
    """
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):  # a Counter or defaultdict too
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        # OneCycleLR keeps a function, which a resumed one has, too
        return kind((key, plain_value(item)) for key, item in value.items() if not isinstance(item, FunctionType))
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(plain_value(item) for item in value)
    return value
