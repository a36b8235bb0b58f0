"""The memory layout of images, where torch's kernels are wrong about it."""

import importlib
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.runner import Runner
from mmpretrain.models.backbones import VGG, AlexNet
from torch import nn


def compile_in_a_sound_layout() -> None:
    """Let ``compile=True`` of a config not lay images channels last where that is not sound.

    Where: torch with inductor on a CPU, see :func:`channels_last_is_sound`; mmengine, ``Runner._maybe_compile``.
    """
    compile_if_asked = Runner._maybe_compile

    def compile_soundly(self: Runner, target: str) -> None:
        if self.cfg.get('compile'):
            keep_layout_when_compiled(self.model)
        compile_if_asked(self, target)

    Runner._maybe_compile = compile_soundly


def keep_layout_when_compiled(*networks: Any) -> None:
    """Let ``torch.compile`` leave the layout of images alone, from now on, if channels last is not sound for networks.

    Where: torch with inductor on a CPU: it lays every convolution of a graph channels last.
    """
    if not channels_last_is_sound(*networks):
        importlib.import_module('torch._inductor.config').layout_optimization = False


def channels_last_is_sound(*networks: Any) -> bool:
    """Return whether networks may be trained with images channels last in memory.

    Where: torch 2.6 to 2.14 on a CPU, backward pass in float32 of a 1 x 1 convolution with a stride, channels last, and
    fewer input channels than oneDNN's block has, 8 with AVX2 and 16 with AVX-512: ``jit_1x1`` writes out of bounds. The
    process dies, computes nonsense, or seems to work. Which kernel oneDNN takes cannot be asked, so 16 everywhere.
    """
    if get_device() != 'cpu':
        return True
    convolutions = (module for network in networks for module in network.modules() if isinstance(module, nn.Conv2d))
    return not any(c.kernel_size == (1, 1) and c.stride != (1, 1) and c.in_channels < 16 for c in convolutions)


def flattens_by_view(*networks: nn.Module) -> bool:
    """Return whether networks fail with images channels last in memory.

    Where: mmpretrain, both families, ``VGG`` and ``AlexNet`` with their own classifier: they flatten maps with
    ``view``, which such maps refuse.
    """
    modules = (module for network in networks for module in network.modules())
    return any(isinstance(module, VGG | AlexNet) and module.num_classes > 0 for module in modules)


def laid_out(images: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Lay images, ``B x C x H x W``, out in memory channels last or as usual; copied if need be.

    Where: torch, all versions: images of one channel count as contiguous in either layout, so that ``contiguous()``
    leaves the strides that convolutions go by.
    """
    if channels_last:
        return images.contiguous(memory_format=torch.channels_last)
    return images.contiguous().flatten(1).view(images.shape)
