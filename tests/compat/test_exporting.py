"""What is replaced during an export is put back."""

import contextlib

import pytest
import torch
from mmpretrain.models.utils import ShiftWindowMSA

from icd_mmrazor.compat.exporting import keep_batch_sizes_open


@pytest.mark.parametrize('shape', [(2, 8, 12, 3), (1, 4, 4, 1), (3, 8, 8, 2)])
def test_windows_are_put_together_as_before_and_the_original_returns(shape: tuple[int, ...]) -> None:
    original, images = ShiftWindowMSA.window_reverse, torch.randn(shape)
    windows = ShiftWindowMSA.window_partition(images, 4)
    assert torch.equal(original(windows, *shape[1:3], 4), images)
    with contextlib.suppress(KeyError), keep_batch_sizes_open():
        assert ShiftWindowMSA.window_reverse is not original
        assert torch.equal(ShiftWindowMSA.window_reverse(windows, *shape[1:3], 4), images)
        raise KeyError
    assert ShiftWindowMSA.window_reverse is original
