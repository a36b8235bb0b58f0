"""Rows of all processes, with gradients."""

from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from torch import Tensor


class _AllGather(torch.autograd.Function):
    """All-gather of equal shapes; its backward pass sums the gradients that all ranks have for a rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: ARG004 (torch passes it)
        gathered = [torch.empty_like(rows) for _ in range(get_world_size())]
        dist.all_gather(gathered, rows)
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def gather_rows(*tensors: Tensor) -> tuple[list[Tensor], int]:
    """Concatenate the rows of all ranks, which may have different numbers of them, in the order of the ranks.

    Returns:
        Each tensor with the rows of all ranks, and the position of this rank's first row. The gradient of a row is the
        sum over the losses of all ranks; with DDP's mean over ranks it is the gradient of the mean of their losses.
    """
    if get_world_size() == 1:
        return list(tensors), 0
    rank, own = dist.get_rank(), len(tensors[0])
    counts = torch.zeros(get_world_size(), dtype=torch.int64, device=tensors[0].device)
    counts[rank] = own
    dist.all_reduce(counts)
    sizes = counts.tolist()
    gathered = []
    for rows in tensors:
        # collectives exchange equal shapes: a rank with fewer rows pads them
        padded = torch.cat([rows, rows.new_zeros(max(sizes) - own, *rows.shape[1:])])
        parts = zip(_AllGather.apply(padded), sizes, strict=True)
        gathered.append(torch.cat([part[:size] for part, size in parts]))
    return gathered, sum(sizes[:rank])


def weight_of_image(images: int) -> float:
    """Return the weight of an image in a sum over those of this rank, so that DDP's average is the mean over all.

    Args:
        images: The number of images of all ranks, which may have different numbers of them.
    """
    return get_world_size() / images
