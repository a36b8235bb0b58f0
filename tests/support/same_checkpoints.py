"""Compare what two runs ended with, bit for bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from icd_mmrazor.checkpoints.reading import read_checkpoint

# times, folders (the config has some), and what the message hub has for display alone: the names of what it holds, and
# the numbers of the epoch and iteration that started last, which a start without any training sets again
IGNORED = {
    *(f'meta.{name}' for name in ('time', 'experiment_name', 'cfg')),
    'message_hub.resumed_keys',
    *(f'message_hub.runtime_info.{name}' for name in ('experiment_name', 'cfg', 'last_ckpt', 'best_ckpt')),
    *(f'message_hub.runtime_info.{name}' for name in ('epoch', 'iter', 'eta')),
    # how often the teacher was run for its cache depends on what other runs have stored
    'meta.teacher_cache.teacher_images',
}


def differences(file: Path, other: Path) -> list[str]:
    """Return where two checkpoints differ: weights, optimizer, schedules, averages, best score, everything.

    Args:
        file: A checkpoint.
        other: Another one.

    Returns:
        The places, as ``optimizer.state.0.momentum_buffer``; empty if they are equal but for what is ``IGNORED``.
    """
    return _differences(read_checkpoint(file), read_checkpoint(other), '')


def _differences(one: Any, other: Any, place: str) -> list[str]:
    if place in IGNORED:
        return []
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        # as bytes: no NaN differs from itself, no -0 equals 0
        return [] if same and _bytes(one) == _bytes(other) else [place]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        places = {key: f'{place}.{key}'.removeprefix('.') for key in [*one, *other]}
        missing = [f'{p}: in one of them' for key, p in places.items() if (key in one) != (key in other)]
        both = [_differences(one[key], other[key], p) for key, p in places.items() if key in one and key in other]
        return sum(both, [p for p in missing if p.partition(':')[0] not in IGNORED])
    return [] if one == other else [f'{place}: {one} and {other}']


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
