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

    Convolutions and matrix products are computed in bfloat16, which has the range of float32, so that nothing has to be
    scaled; weights, gradients and optimizer stay in float32. For float16, on a GPU, there is mmengine's
    ``AmpOptimWrapper``. A teacher in ``FrozenTeacherDistill`` has its own precision.

    On a CPU without bfloat16 instructions this is slower than float32; the log then says so.

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
                f"AutocastOptimWrapper: dtype={dtype!r} must be 'bfloat16'. For float16 set "
                "optim_wrapper.type='AmpOptimWrapper' (tools/train.py --amp fp16), for float32 'OptimWrapper'."
            )
        super().__init__(optimizer, **kwargs)
        self.device = optimizer.param_groups[0]['params'][0].device
        check_precision(torch.bfloat16, self.device, "optim_wrapper.type='AutocastOptimWrapper'")

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run a forward pass of the model under autocast."""
        with super().optim_context(model), torch.autocast(self.device.type, torch.bfloat16):
            yield
