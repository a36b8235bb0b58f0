"""Plain values, which ``torch.load(weights_only=True)`` reads."""

from collections import OrderedDict
from types import FunctionType
from typing import Any

import numpy as np
import torch
from mmengine.utils import apply_to
from torch import Tensor

# in addition to tensors and containers
PLAIN_TYPES = (bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device)


def is_plain(value: Any) -> bool:
    """Return whether ``torch.load(weights_only=True)`` reads a value."""
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple, torch.Size) and all(map(is_plain, value))
    return value is None or isinstance(value, Tensor) or type(value) in PLAIN_TYPES


def plain_value(value: Any) -> Any:
    """Write numpy's values and special containers as Python's own; what has no plain form stays as it is."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):  # a Counter or defaultdict too
        # OneCycleLR keeps a function, which a resumed one has, too
        items = ((key, plain_value(item)) for key, item in value.items() if not isinstance(item, FunctionType))
        return OrderedDict(items) if isinstance(value, OrderedDict) else dict(items)
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(plain_value(item) for item in value)
    return value


def make_plain(checkpoint: dict[str, Any]) -> dict[str, str]:
    """Leave in a checkpoint of mmengine's what ``torch.load(weights_only=True)`` reads.

    The histories of logged numbers are dropped, and memory layouts: in the file all tensors are contiguous.

    Args:
        checkpoint: The checkpoint; changed.

    Returns:
        Names in the message hub, and their classes, that were left out because they have no plain form: a metric of the
        last validation may be any object.
    """
    hub = checkpoint.get('message_hub')
    if hub:
        kept = {key: value for key, value in hub['resumed_keys'].items() if key not in hub['log_scalars']}
        checkpoint['message_hub'] = {**hub, 'log_scalars': OrderedDict(), 'resumed_keys': OrderedDict(kept)}
    for name in ('state_dict', 'ema_state_dict', 'optimizer'):
        if name in checkpoint:
            checkpoint[name].update(apply_to(checkpoint[name], torch.is_tensor, Tensor.contiguous))
    for name in ('meta', 'message_hub', 'param_schedulers'):
        if name in checkpoint:
            checkpoint[name] = plain_value(checkpoint[name])
    if not hub:
        return {}
    hub = checkpoint['message_hub']
    dropped = {name: type(value).__name__ for name, value in hub['runtime_info'].items() if not is_plain(value)}
    for name in dropped:
        del hub['runtime_info'][name]
        hub['resumed_keys'].pop(name, None)
    return dropped
