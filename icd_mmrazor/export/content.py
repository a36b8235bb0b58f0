"""Contents of exported files."""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch


class Content(NamedTuple):
    """The bytes of an exported file, with a description.

    Args:
        data: The bytes of the file.
        note: A description for the tool's output: the shape of the images, how exact it is.
        metrics: The metrics of the file on the test images, if they were measured.
    """

    data: bytes
    note: str
    metrics: dict[str, float] | None = None


def images_note(channels: int, size: tuple[int, int], difference: float) -> str:
    """Describe the images that a file takes, and how far its logits are from the student's."""
    return f'images: B x {channels} x {size[0]} x {size[1]}, differs from torch by {difference:.1e}'


def state_data(state: Mapping[str, Any]) -> bytes:
    """Return what ``torch.save`` makes of a state dict or a checkpoint."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()
