"""How much memory is free."""

import os
from pathlib import Path

import torch

MEMINFO = Path('/proc/meminfo')


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes a device could still give.

    Args:
        device: A GPU of torch's ``cuda``, or the CPU.

    Returns:
        Bytes; ``None`` where the device does not say.
    """
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    if device.type != 'cpu':
        return None
    if MEMINFO.is_file():
        # what the file cache holds counts as free here: it gives way
        for line in MEMINFO.read_text().splitlines():
            name, _, amount = line.partition(':')
            if name == 'MemAvailable':
                return 1024 * int(amount.split()[0])
    if 'SC_AVPHYS_PAGES' in getattr(os, 'sysconf_names', {}):
        return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return None
