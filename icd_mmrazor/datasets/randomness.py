"""Random numbers that follow from a key alone."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

# what the random numbers are for: the last part of a key, so that no two purposes share a stream
EPOCH, ORDER, IMAGES, STEP, VALIDATION, VIEW, MIXTURE, STRONG_VIEW = range(1, 9)


def seed_all(*key: int) -> None:
    """Seed Python, numpy and torch, on the CPU and CUDA, with a key such as (seed, rank, iteration, purpose).

    Nothing drawn before has an influence, so a resumed run needs no stored generator states. Does not wait for the GPU.
    """
    for_torch = seed_cpu(*key)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(for_torch)


def seed_cpu(*key: int) -> int:
    """Seed as :func:`seed_all` does, but on the CPU alone, as :func:`undrawn` restores it; return torch's seed."""
    for_python, for_numpy, for_torch = _seeds(key)
    random.seed(for_python)
    np.random.seed(for_numpy)  # noqa: NPY002 the transforms of mmcv and mmpretrain draw from it
    # not torch.manual_seed: without a GPU it records where it is called from, ten times the cost of all the rest
    torch.default_generator.manual_seed(for_torch)
    return for_torch


def seed_numpy(*key: int) -> None:
    """Seed numpy as :func:`seed_all` does, and nothing else."""
    np.random.seed(_seeds(key)[1])  # noqa: NPY002 as above


def _seeds(key: tuple[int, ...]) -> tuple[int, int, int]:
    for_python, for_numpy, for_torch = np.random.SeedSequence(key).generate_state(3, np.uint64).tolist()
    return for_python, for_numpy & 0xFFFFFFFF, for_torch


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Leave the generators of Python, numpy and torch on the CPU as they are, whatever is drawn in the context."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 as above
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
