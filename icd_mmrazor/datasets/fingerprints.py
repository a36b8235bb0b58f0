"""Fingerprints of datasets, pipelines or weights, which tell whether they have changed since they were read."""

import pickle
import zlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def fingerprint(value: Any) -> int:
    """Compute a checksum of the pickle of an object, which may raise anything: files count by their paths alone."""
    checksum = _Checksum()
    pickle.dump(value, checksum, pickle.HIGHEST_PROTOCOL)
    return checksum.value


def fingerprint_of_dataset(dataset: Any) -> int:
    """Compute a checksum of a dataset's attributes except its pipeline, or of its annotations if pickle cannot."""
    try:
        return fingerprint({name: value for name, value in vars(dataset).items() if name != 'pipeline'})
    except Exception:  # an open file, a function inside: objects raise anything
        if not hasattr(dataset, 'get_data_info'):
            raise
        return fingerprint([dataset.get_data_info(i) for i in range(len(dataset))])


def fingerprint_of_tensors(tensors: Iterable[Tensor]) -> int:
    """Compute a checksum of the values of tensors of any types, on any device."""
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), total)
    return total


class _Checksum:
    """A file that keeps only a checksum of what is written to it."""

    value = 0

    def write(self, data: Any) -> None:
        self.value = zlib.crc32(data, self.value)
