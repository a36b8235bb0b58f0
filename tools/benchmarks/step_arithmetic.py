"""The least that a step can take on a machine: its operations over the speed of a large one; and the machine."""

import copy
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmengine
import torch
import torch.nn.functional as F
import torchvision
from step_measures import backend_switches, seconds_a_call, set_backend_switches
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# rows of the matrices; images of the convolution, and their height
PRODUCT_SIZES = {'cpu': 2048, 'cuda': 8192}
CONVOLUTION_SIZES = {'cpu': (64, 8), 'cuda': (1024, 32)}


def step_flops(
    teacher: nn.Module, student: nn.Module, forward: Callable, icd: nn.Module | None, batch_size: int, pixels: int
) -> dict[str, int]:
    """Count the floating-point operations of a step: those of convolutions and matrix products, two a multiplication.

    They are counted on shapes alone; nothing is computed.

    Args:
        teacher: The teacher; its forward pass counts.
        student: The student; forward and backward.
        forward: Runs a network on images and returns feature and logits.
        icd: The loss of the student's and the teacher's feature, if it counts; forward and backward.
        batch_size: Images.
        pixels: Their height and width.
    """
    teacher, student = (copy.deepcopy(module).to('meta') for module in (teacher, student))
    images = torch.empty(batch_size, 3, pixels, pixels, device='meta')
    counts = {}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        target, _ = forward(teacher, images)
    counts['teacher'] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        feature, logits = forward(student, images)
        (feature.sum() + logits.sum()).backward()
    counts['student'] = counter.get_total_flops()
    if icd is not None:
        icd = copy.deepcopy(icd).to('meta')
        with FlopCounterMode(display=False) as counter:
            icd(feature.detach().requires_grad_(), target).backward()
        counts['losses'] = counter.get_total_flops()
    return counts


def speed(kind: str, precision: str, device: str) -> float:
    """Return the floating-point operations a second that one large operation reaches.

    Args:
        kind: ``'product'`` of two square matrices, or ``'convolution'`` of 3 x 3, 256 channels to 256. Either may be
            the faster one: they come from different libraries.
        precision: ``'fp32'``, ``'bf16'``, or ``'tf32'`` (GPU).
        device: ``'cpu'`` or ``'cuda'``.
    """
    dtype = torch.bfloat16 if precision == 'bf16' else torch.float32
    before = backend_switches()
    set_backend_switches(('high' if precision == 'tf32' else 'highest', precision == 'tf32', True))
    try:
        if kind == 'product':
            size = PRODUCT_SIZES[device]
            left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            return 2 * size**3 / seconds_a_call(lambda: left @ right, device)
        batch, pixels = CONVOLUTION_SIZES[device]
        layout = dict(dtype=dtype, memory_format=torch.channels_last)
        images = torch.randn(batch, 256, pixels, pixels, device=device).to(**layout)
        weight = torch.randn(256, 256, 3, 3, device=device).to(**layout)
        operations = 2 * batch * pixels**2 * 256 * 256 * 9
        return operations / seconds_a_call(lambda: F.conv2d(images, weight, padding=1), device)
    finally:
        set_backend_switches(before)


def machine_facts(device: str) -> dict[str, Any]:
    """Return what numbers of time depend on."""
    facts = {
        'processor': processor(),
        'instructions': torch.backends.cpu.get_cpu_capability(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load average': round(os.getloadavg()[0], 2),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'torchvision': torchvision.__version__,
        'mmengine': mmengine.__version__,
        'device': device,
    }
    if device == 'cuda':
        facts |= {'gpu': torch.cuda.get_device_name(), 'cuda': torch.version.cuda}
    return facts


def processor() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
