"""Training in bfloat16."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.optim import Optimizer

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.precision import check_precision


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Train under autocast without scaling the gradients, on a CPU or a GPU.

    Convolutions and matrix products are computed in bfloat16; weights, gradients and optimizer stay in float32.
    bfloat16 has the range of float32, so nothing is scaled. float16 has not: it needs mmengine's ``AmpOptimWrapper``,
    which works on a GPU alone. A teacher in ``FrozenTeacherDistill`` has its own precision.

    On a CPU without bfloat16 instructions it is slower than float32; the log then says so.

    Args:
        optimizer: The optimizer.
        dtype: ``'bfloat16'``.
        **kwargs: Other arguments of mmengine's ``OptimWrapper``.

    Raises:
        SettingError: ``dtype`` is another, or the GPU does not compute in bfloat16.

    Config example::

        optim_wrapper=dict(type='AutocastOptimWrapper')
    """

    def __init__(self, optimizer: Optimizer, dtype: str = 'bfloat16', **kwargs: Any) -> None:
        if dtype != 'bfloat16':
            raise SettingError(
                f"AutocastOptimWrapper: dtype={dtype!r} must be 'bfloat16'. For float16, which needs scaled gradients, "
                "set optim_wrapper.type='AmpOptimWrapper' (tools/train.py --amp fp16), on a GPU; for float32 "
                "'OptimWrapper'."
            )
        super().__init__(optimizer, **kwargs)
        self.device = optimizer.param_groups[0]['params'][0].device
        check_precision(torch.bfloat16, self.device, "optim_wrapper.type='AutocastOptimWrapper'")

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run a forward pass under autocast.

        Args:
            model: The model; with accumulated gradients its processes exchange them in the last step only.

        Yields:
            Nothing; inside, autocast is on.
        """
        with super().optim_context(model), torch.autocast(self.device.type, torch.bfloat16):
            yield
