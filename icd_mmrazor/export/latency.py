"""Latency of a network on the CPU."""

import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from icd_mmrazor.export.network import quiet
from icd_mmrazor.machine import cores, processor

WARM_UP = 3
LEAST = 3  # measurements, however long they take


class Latency(NamedTuple):
    """Time of a forward pass, in milliseconds: the median of all measurements and their interquartile range."""

    median: float
    spread: float
    measurements: int

    def __str__(self) -> str:
        return f'{self.median:.2f} ± {self.spread / 2:.2f}'


def latency(network: Callable[[Tensor], object], images: Tensor, threads: int, seconds: float = 1.0) -> Latency:
    """Measure the time that a network takes for a batch, after some passes to warm up.

    ``torch.utils.benchmark`` repeats the pass until the time is over, three times at least, with this number of torch's
    threads. A session of onnxruntime has its own, which are chosen when it is made
    (:func:`icd_mmrazor.export.running.network_in`).

    Args:
        network: From images to logits.
        images: The batch, ``B x C x H x W``.
        threads: The number of threads.
        seconds: How long to measure, at least.
    """
    with quiet(logging.getLogger('torch.utils.cpp_extension'), logging.ERROR):  # which looks for CUDA
        from torch.utils.benchmark import Timer
    timer = Timer('network(images)', globals={'network': network, 'images': images}, num_threads=threads)
    with torch.inference_mode():
        timer.timeit(WARM_UP)
        times = timer.blocked_autorange(min_run_time=seconds).times
        times += [timer.timeit(1).median for _ in range(LEAST - len(times))]
    low, median, high = (1e3 * float(value) for value in np.quantile(times, (0.25, 0.5, 0.75)))
    return Latency(median, high - low, len(times))


def multiply_adds(network: Callable[[Tensor], object], images: Tensor) -> int:
    """Count the multiply-adds of a forward pass: those of convolutions, matrix products and attention."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops() // 2


def machine() -> str:
    """Describe what a latency depends on: the processor, its cores, and the versions of torch and onnxruntime."""
    packages = [name for name in ('torch', 'onnxruntime') if importlib.util.find_spec(name)]
    versions = [f'{name} {importlib.metadata.version(name)}' for name in packages]
    return ', '.join([processor(), f'{cores()} cores', *versions])
