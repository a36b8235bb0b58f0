"""Base class of the losses with a queue of recent embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import MemoryLoss


class QueueLoss(MemoryLoss):
    """Loss between embeddings and a first-in-first-out memory of the teacher's, of the last ``memory_size`` images."""

    memory: Tensor
    oldest: Tensor

    def __init__(self, memory_size: int, embed_dims: int, loss_weight: float) -> None:
        super().__init__(embed_dims, loss_weight)
        self.memory_size = checks.positive_int(self, 'memory_size', memory_size)
        # as published, columns of length 1, not rows: unused rows of the memory are short until it is full
        self.register_buffer('memory', F.normalize(torch.randn(memory_size, embed_dims), dim=0))
        self.register_buffer('oldest', torch.zeros((), dtype=torch.int64))

    def copied_memory(self, dtype: torch.dtype) -> Tensor:
        """Return the memory for a comparison.

        It is a copy: the next batch writes into the memory, and may come before this one's backward pass.
        """
        return self.memory.to(dtype, copy=True)

    @torch.no_grad()
    def enqueue_rows(self, embeddings: Tensor) -> None:
        """Replace the oldest embeddings in the memory by those of a batch."""
        rows = (self.oldest + torch.arange(len(embeddings), device=embeddings.device)) % self.memory_size
        # only the last images of a batch larger than the memory stay
        kept = slice(-self.memory_size, None)
        self.memory.index_copy_(0, rows[kept], embeddings[kept].to(self.memory.dtype))
        self.oldest.copy_((self.oldest + len(embeddings)) % self.memory_size)
