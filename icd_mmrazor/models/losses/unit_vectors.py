"""Vectors of length 1."""

import math

import torch
from torch import Tensor

SHORTEST = 1e-12


def unit_vectors(vectors: Tensor, dim: int = 1) -> Tensor:
    """Divide vectors by their lengths.

    It is ``torch.nn.functional.normalize``, to the bit, save for vectors shorter than ``1e-12``. These have no
    direction: they become 0 and get no gradient. There ``normalize`` multiplies the gradient by ``1e12``, so that one
    image whose feature is 0 ends a run, and is more than float16 holds.

    Args:
        vectors: Floating-point numbers of any shape. A NaN or an infinity makes its vector NaN.
        dim: The dimension along which the vectors lie.

    Returns:
        The same shape.
    """
    lengths = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / lengths.masked_fill(lengths < SHORTEST, math.inf)
