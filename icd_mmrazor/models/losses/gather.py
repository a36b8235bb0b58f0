"""What the losses need of the other processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    """Concatenate the rows of all ranks; the backward pass sums what all ranks' losses say of a rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        rank, largest = dist.get_rank(), max(sizes)
        ctx.start, ctx.size = sum(sizes[:rank]), sizes[rank]
        # collectives exchange equal shapes: a rank with fewer rows pads them
        padded = torch.cat([rows, rows.new_zeros(largest - len(rows), *rows.shape[1:])])
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.start : ctx.start + ctx.size], None


def batch_sizes(batch_size: int, device: torch.device) -> list[int]:
    """Return the batch size of every rank, in the order of the ranks.

    Args:
        batch_size: This rank's.
        device: Where the process group's backend exchanges tensors.
    """
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    sizes[dist.get_rank()] = batch_size
    dist.all_reduce(sizes)
    return sizes.tolist()


def gather_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """Gather the rows of all ranks, with gradients.

    Args:
        rows: This rank's, ``b x E``; ``b`` may differ between ranks.
        sizes: The ``b`` of every rank, from :func:`batch_sizes`.

    Returns:
        The rows of all ranks in the order of the ranks, ``B x E``. The gradient of a row is the sum of what the
        losses of all ranks give it; with DDP's mean over ranks, that is the gradient of the mean of their losses.
    """
    return _GatherRows.apply(rows, sizes)
