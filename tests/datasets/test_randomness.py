import random

import numpy as np
import pytest
import torch

from icd_mmrazor.datasets.randomness import EPOCH, IMAGES, ORDER, STEP, VALIDATION, seed_all


def drawn(*key: int) -> tuple[float, float, float]:
    seed_all(*key)
    return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002


def test_everything_follows_from_the_key() -> None:
    first = drawn(3, 0, 7, STEP)
    drawn(5, 0, 7, STEP)
    assert drawn(3, 0, 7, STEP) == first


def test_keys_that_differ_in_one_number_share_nothing() -> None:
    keys = [(3, 0, 7, purpose) for purpose in (EPOCH, ORDER, IMAGES, STEP, VALIDATION)]
    keys += [(4, 0, 7, STEP), (3, 1, 7, STEP), (3, 0, 8, STEP), (0, 0, 0, STEP), (2**32 - 1, 0, 10**9, STEP)]
    for numbers in zip(*(drawn(*key) for key in keys), strict=True):
        assert len(set(numbers)) == len(keys)


@pytest.mark.gpu
def test_a_gpu_is_seeded_without_synchronisation() -> None:
    torch.zeros(1, device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        seed_all(1, 0, 2, STEP)
        first = torch.rand(4, device='cuda')
        seed_all(1, 0, 2, STEP)
        second = torch.rand(4, device='cuda')
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert torch.equal(first, second)
