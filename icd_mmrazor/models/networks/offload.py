"""Weights of a frozen network that wait on the CPU until they are needed."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Offload:
    """Weights of parts of a frozen network that are on its device only while the part runs.

    Before a part runs, its parameters and buffers are copied to the device; after it, the copies are dropped, and the
    originals on the CPU are used again. Nothing is copied back, so the network must not change. The rest of the network
    stays on the device. Where the device is the CPU, nothing is copied.

    Args:
        network: The network, on the CPU.
        parts: Those of its modules that wait on the CPU; each is called as a module, and none contains another.

    Attributes:
        device (torch.device): Where the network runs.

    Example, a transformer of which one block at a time is on the GPU::

        offload = Offload(network, blocks_of(network))
        offload._apply(lambda tensor: tensor.cuda())
    """

    def __init__(self, network: nn.Module, parts: list[nn.Module]) -> None:
        self.network, self.parts = network, parts
        self.device = torch.device('cpu')
        self._waiting: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        for part in parts:
            part.register_forward_pre_hook(self._fetch)
            # also after an error
            part.register_forward_hook(self._release, always_call=True)

    def _apply(self, function: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> None:
        """Move or cast the network, as ``nn.Module._apply`` does; the parts are cast, and stay on the CPU."""
        self.device = function(torch.empty(0)).device
        inside = {module for part in self.parts for module in part.modules()}
        for module in self.network.modules():
            if module not in inside:
                module._apply(function, *args, **{**kwargs, 'recurse': False})

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(function(tensor.new_empty(0)).dtype)

        for part in self.parts:
            part._apply(cast, *args, **kwargs)

    @property
    def resident(self) -> list[nn.Module]:
        """The parts that are on the device now."""
        return list(self._waiting)

    def _fetch(self, part: nn.Module, _: Any) -> None:
        self._waiting[part] = originals = []
        if self.device.type == 'cpu':
            return
        for tensor in _tensors(part):
            originals.append((tensor, tensor.data))
            tensor.data = tensor.data.to(self.device, non_blocking=True)

    def _release(self, part: nn.Module, *_: Any) -> None:
        for tensor, original in self._waiting.pop(part, []):
            tensor.data = original


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a network: the members of its innermost sequences of alike blocks.

    A block contains other modules, and at least one other in the sequence is of its class: the encoder layers of a
    transformer, the residual blocks of a ResNet.
    """
    blocks: list[nn.Module] = []
    for child in network.children():
        inner = list(child.children()) if isinstance(child, nn.Sequential | nn.ModuleList) else []
        kinds = Counter(type(block) for block in inner if any(block.children()))
        alike = [block for block in inner if kinds[type(block)] > 1]
        for block in alike:
            blocks += blocks_of(block) or [block]
        if not alike:
            blocks += blocks_of(child)
    return blocks


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
