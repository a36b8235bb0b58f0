"""Half precision, with the devices that support it."""

import logging

import torch
from mmengine.logging import print_log
from torch import nn

from icd_mmrazor.errors import SettingError

PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
# autocast, with weights that are stored in half precision, too
TRUE = '-true'
FROZEN_PRECISIONS = {**PRECISIONS, **{f'{name}{TRUE}': dtype for name, dtype in PRECISIONS.items() if dtype}}


def store_weights_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of a frozen network in half precision, for a forward pass under autocast.

    Vectors stay in float32: biases, and the weights and statistics of norms. They need little memory and are sensitive
    to rounding.
    """
    for parameter in network.parameters():
        if parameter.ndim > 1 and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def check_precision(dtype: torch.dtype, device: torch.device, setting: str) -> None:
    """Refuse half precision on a device that does not support it; warn if it is slower than float32 there.

    Raises:
        SettingError: float16 on a CPU, or bfloat16 on a GPU without it; ``setting`` asks for it.
    """
    if dtype == torch.float16 and device.type == 'cpu':
        raise SettingError(f'{setting}: float16 is not supported on a CPU. Use bfloat16 or float32.')
    # not emulated, which torch counts as supported by default
    if dtype == torch.bfloat16 and device.type == 'cuda' and not torch.cuda.is_bf16_supported(False):
        raise SettingError(
            f'{setting}: {torch.cuda.get_device_name(device)} does not compute in bfloat16. Use float16 (for the '
            "student: optim_wrapper.type='AmpOptimWrapper', tools/train.py --amp fp16) or float32."
        )
    if dtype == torch.bfloat16 and device.type == 'cpu' and not _cpu_computes_in_bfloat16():
        print_log(
            f'{setting}: this CPU has no instructions for bfloat16; float32 is faster on it.',
            logger='current',
            level=logging.WARNING,
        )


def _cpu_computes_in_bfloat16() -> bool:
    if not hasattr(torch.cpu, 'get_capabilities'):  # an older torch does not say
        return True
    # avx512_bf16 and amx_bf16, or bf16 and sve_bf16
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith('bf16'))
