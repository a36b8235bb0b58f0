"""Half precision, and where it works."""

import torch

from icd_mmrazor.utils.errors import SettingError

PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def check_precision(dtype: torch.dtype, device: torch.device, setting: str) -> None:
    """Refuse a precision that a device cannot compute in.

    Args:
        dtype: ``torch.bfloat16`` or ``torch.float16``.
        device: The device.
        setting: What asks for it, for the message.

    Raises:
        SettingError: fp16 on a CPU, or bf16 on a GPU that has none.
    """
    if dtype == torch.float16 and device.type == 'cpu':
        raise SettingError(f"{setting}: a CPU has no float16 convolutions worth using. Set it to 'bf16' or 'fp32'.")
    if dtype == torch.bfloat16 and device.type == 'cuda' and not torch.cuda.is_bf16_supported():
        raise SettingError(
            f'{setting}: {torch.cuda.get_device_name(device)} does not compute in bfloat16. '
            "Set it to 'fp16' (with AmpOptimWrapper for the student) or 'fp32'."
        )
