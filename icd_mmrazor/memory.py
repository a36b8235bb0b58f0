"""Errors that are a lack of memory."""

import torch

# torch's allocator on a CPU; cuBLAS, cuDNN and NCCL, whose own memory no allocator of torch gives
SAYINGS = ("DefaultCPUAllocator: can't allocate memory", 'out of memory', 'ALLOC_FAILED')


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a lack of memory, of a GPU or of the machine.

    Only torch's allocator for GPUs has a class of errors; all others raise ``RuntimeError``.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in SAYINGS)
