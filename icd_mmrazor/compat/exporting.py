"""Workarounds while a network is exported."""

import contextlib
from collections.abc import Iterator

from mmpretrain.models.utils import ShiftWindowMSA
from torch import Tensor


@contextlib.contextmanager
def keep_batch_sizes_open() -> Iterator[None]:
    """Let Swin transformers be exported for batches of any size.

    Where: mmpretrain 1.2.0 and onedl-mmpretrain 1.3.6, ``ShiftWindowMSA.window_reverse``. It computes the number of
    images from that of the windows by floats and ``int``. This makes the batch that an exporter sees a constant:
    torch.export refuses it, and what torch.onnx writes gives wrong logits.
    """
    original = vars(ShiftWindowMSA)['window_reverse']
    ShiftWindowMSA.window_reverse = staticmethod(_window_reverse)
    try:
        yield
    finally:
        ShiftWindowMSA.window_reverse = original


def _window_reverse(windows: Tensor, H: int, W: int, window_size: int) -> Tensor:  # noqa: N803
    rows, columns = H // window_size, W // window_size
    windows = windows.view(windows.shape[0] // (rows * columns), rows, columns, window_size, window_size, -1)
    return windows.permute(0, 1, 3, 2, 4, 5).reshape(windows.shape[0], H, W, -1)
