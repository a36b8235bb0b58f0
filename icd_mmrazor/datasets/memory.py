"""How much memory is free."""

import os
from pathlib import Path

import torch
from mmengine.dist import get_world_size

MEMINFO = Path('/proc/meminfo')
GROUPS = Path('/sys/fs/cgroup')
OWN_GROUPS = Path('/proc/self/cgroup')
# of a control group: its limit, what is used of it, and which part of that is file cache; version 2, then version 1
GROUP_FILES = (
    ('memory.max', 'memory.current', 'inactive_file'),
    ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'),
)


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes a device could still give.

    On a machine that limits a job's memory by control groups, as Slurm and Docker do, the CPU gives what the job has
    left.

    Args:
        device: A GPU of torch's ``cuda``, or the CPU.

    Returns:
        Bytes; ``None`` where the device does not say.
    """
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    if device.type != 'cpu':
        return None
    return min([*_free_of_machine(), *_free_of_groups()], default=None)


def processes_sharing(device: torch.device) -> int:
    """Return how many processes of a run take memory of a device.

    Args:
        device: A GPU, which has one process, or the CPU.

    Returns:
        Those on this machine, as torchrun says; all of the run where nothing says.
    """
    return int(os.environ.get('LOCAL_WORLD_SIZE', get_world_size())) if device.type == 'cpu' else 1


def _free_of_machine() -> list[int]:
    # what the file cache holds counts as free here and below: it gives way
    if MEMINFO.is_file():
        for line in MEMINFO.read_text().splitlines():
            name, _, amount = line.partition(':')
            if name == 'MemAvailable':
                return [1024 * int(amount.split()[0])]
    if 'SC_AVPHYS_PAGES' in getattr(os, 'sysconf_names', {}):
        return [os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
    return []


def _free_of_groups() -> list[int]:
    """Return what is left of each limit: of the process's groups and of those they are in."""
    folders = set()
    if OWN_GROUPS.is_file():
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, group = line.split(':', 2)
            # version 1 has a tree for each controller, version 2 one tree for all; in a container the path may be that
            # outside, of which nothing is there but the top
            if controllers in ('', 'memory'):
                own = GROUPS / controllers / group.lstrip('/')
                folders.update(folder for folder in (own, *own.parents) if folder.is_relative_to(GROUPS))
    return [free for folder in folders for names in GROUP_FILES if (free := _free_of_group(folder, *names)) is not None]


def _free_of_group(folder: Path, limit: str, used: str, cache: str) -> int | None:
    try:
        free = int((folder / limit).read_text()) - int((folder / used).read_text())
        amounts = dict(line.split() for line in (folder / 'memory.stat').read_text().splitlines())
    except (OSError, ValueError):  # there is no such file, or it says "max": no limit
        return None
    return max(0, free + int(amounts.get(cache, 0)))
