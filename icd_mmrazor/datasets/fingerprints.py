"""Fingerprints that tell whether a dataset, a pipeline or weights have changed since they were read."""

import pickle
import zlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def fingerprint(value: Any, but: Any = None) -> int:
    """Return a number that changes with what an object holds.

    Args:
        value: What pickle can write.
        but: An object inside whose changes do not count.

    Returns:
        A checksum of its pickle: arrays count in full (a gigabyte takes about a second), files by their paths alone.

    Raises:
        Exception: pickle cannot write it: a ``PicklingError``, or what an object inside raises.
    """
    total = _Checksum()
    _Pickler(total, but).dump(value)
    return total.value


def fingerprint_of_dataset(dataset: Any, but: Any = None) -> int:
    """Return a number that changes with a dataset's annotations, images in memory and settings.

    Args:
        dataset: Any dataset.
        but: An object inside whose changes do not count, such as its pipeline.

    Returns:
        A checksum of all its attributes, or of its annotations where those cannot be pickled.

    Raises:
        Exception: Nothing of it can be pickled.
    """
    try:
        # a loader may have been given a way to fetch whole batches, which is not the dataset's
        return fingerprint({name: value for name, value in vars(dataset).items() if name != '__getitems__'}, but)
    except Exception:  # an open file, a function inside: objects raise anything
        if not hasattr(dataset, 'get_data_info'):
            raise
        return fingerprint([dataset.get_data_info(i) for i in range(len(dataset))])


def fingerprint_of_tensors(tensors: Iterable[Tensor]) -> int:
    """Return a number that changes with the values of tensors, however they are changed.

    Args:
        tensors: Of any types, on any device.
    """
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), total)
    return total


class _Checksum:
    """A file that keeps only a checksum of what is written to it."""

    value = 0

    def write(self, data: Any) -> None:
        self.value = zlib.crc32(data, self.value)


class _Pickler(pickle.Pickler):
    def __init__(self, file: _Checksum, but: Any) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._but = but

    def persistent_id(self, obj: Any) -> str | None:
        return 'left out' if self._but is not None and obj is self._but else None
