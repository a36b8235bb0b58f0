"""The forward pass of a frozen network."""

from typing import Any

import torch
from torch import Tensor, nn

from icd_mmrazor.compat.layout import laid_out
from icd_mmrazor.models.networks.view import TeacherView


def run_in_view(
    network: nn.Module,
    images: Tensor,
    data_samples: list | None,
    mode: str,
    view: TeacherView | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """Run a network in its own view and precision, whatever those around are, with the gradients of the images.

    Args:
        network: The network.
        images: ``B x C x H x W``, as the run's data preprocessor gives them.
        data_samples: Those of the batch.
        mode: ``'tensor'`` or ``'predict'``.
        view: What turns the images into those that the network expects.
        dtype: The precision of its autocast; None: float32, even if the student trains under autocast.
    """
    if view is not None and view.changes:
        channels_last = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
        images = laid_out(view(images), channels_last)
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        return network(images, data_samples, mode=mode)


@torch.no_grad()
def run_frozen(*args: Any, **kwargs: Any) -> Any:
    """Run a network as :func:`run_in_view` does, without gradients."""
    return run_in_view(*args, **kwargs)
