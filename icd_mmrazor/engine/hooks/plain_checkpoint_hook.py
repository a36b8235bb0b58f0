"""Checkpoints of nothing but tensors, laid out as always, and plain values."""

from collections import OrderedDict
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.utils import apply_to
from torch import Tensor

from icd_mmrazor.checkpoints.plain_values import is_plain, plain_value


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Leave out of a checkpoint what only a pickle can hold, so that ``torch.load(weights_only=True)`` reads it.

    mmengine stores the history of every logged number as objects of its own. Only the averages over the last few
    iterations in the log need it, and they begin anew after a resume; the logs themselves are files of their own.

    The memory layout of a run (channels last) is left out too: in the file all tensors are contiguous. A run that
    starts gives its optimizer's momenta the layout of their weights, whatever the file has: torch's fused optimizers
    on a CPU take it for granted, and mix up the values without a word where it differs.

    Config example::

        default_hooks=dict(plain_checkpoint=dict(type='PlainCheckpointHook'))
    """

    # before the file is written, after the hooks that add to it
    priority = 'LOWEST'

    def __init__(self) -> None:
        # what has been named in a warning
        self._dropped: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Lay out what a resumed optimizer has read as the weights of this run are."""
        wrapper = runner.optim_wrapper
        for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            for weight, state in each.optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop histories and memory layouts; write what is numpy's, and special containers, as Python's own."""
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
        self._drop_objects(runner, checkpoint.get('message_hub'))

    def _drop_objects(self, runner: Runner, hub: dict[str, Any] | None) -> None:
        """Leave out what could not be read again: a metric of the last validation, for example, may be any object."""
        for name, value in list(hub['runtime_info'].items()) if hub else []:
            if not is_plain(value):
                del hub['runtime_info'][name]
                hub['resumed_keys'].pop(name, None)
                if name not in self._dropped:
                    self._dropped.add(name)
                    runner.logger.warning(
                        f'PlainCheckpointHook: {name} in the message hub is a {type(value).__name__} and not stored: '
                        'a checkpoint holds tensors and plain values only.'
                    )
