"""Weights of a frozen network that wait on the CPU until they are needed."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# the part of a stage's parameters that its blocks have at least
MOST = 0.8


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
        self._waiting: dict[nn.Module, list[tuple[dict, str, Tensor]]] = {}
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
        for module in part.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        originals.append((tensors, name, tensor))
                        copied = tensor.detach().to(self.device, non_blocking=True)
                        tensors[name] = nn.Parameter(copied, False) if isinstance(tensor, nn.Parameter) else copied

    def _release(self, part: nn.Module, *_: Any) -> None:
        for tensors, name, original in self._waiting.pop(part, []):
            tensors[name] = original


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a network, such as the encoder layers of a transformer or the blocks of a ResNet.

    They are the members of a sequence, contain other modules, and are not the only ones of their class in it. A stage
    that consists of such blocks, for the most part, gives them instead of itself.
    """
    children = list(network.children())
    in_sequence = isinstance(network, nn.Sequential | nn.ModuleList)
    kinds = Counter(type(child) for child in children if in_sequence and any(child.children()))
    blocks: list[nn.Module] = []
    for child in children:
        inner = blocks_of(child)
        repeated = kinds[type(child)] > 1 and not isinstance(child, nn.ModuleList)  # which is not called itself
        blocks += [child] if repeated and _size(*inner) < MOST * _size(child) else inner
    return blocks


def _size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
