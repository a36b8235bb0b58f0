"""Checkpoints of nothing but tensors and plain values."""

from collections import OrderedDict
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Leave out of a checkpoint what only a pickle can hold, so that ``torch.load(weights_only=True)`` reads it.

    mmengine stores the history of every logged number as objects of its own: 16 bytes a number and iteration, 30 MB
    after 240 epochs of CIFAR-100, beside a student of 1 MB. Only the averages over the last few iterations in the
    log need it, and they begin anew after a resume; the logs themselves are files of their own.

    Config example::

        default_hooks=dict(plain_checkpoint=dict(type='PlainCheckpointHook'))
    """

    # before the file is written, after the hooks that add to it
    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop the histories; write what is numpy's, and special containers, as Python's own."""
        hub = checkpoint.get('message_hub')
        if hub:
            kept = {key: value for key, value in hub['resumed_keys'].items() if key not in hub['log_scalars']}
            checkpoint['message_hub'] = {**hub, 'log_scalars': OrderedDict(), 'resumed_keys': OrderedDict(kept)}
        for name in ('meta', 'message_hub', 'param_schedulers'):
            if name in checkpoint:
                checkpoint[name] = _plain(checkpoint[name])


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):  # a Counter or defaultdict too
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((key, _plain(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(_plain(item) for item in value)
    return value
