"""A network that is only read, made as fast as its settings allow."""

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from icd_mmrazor.utils.errors import SettingError
from icd_mmrazor.utils.precision import PRECISIONS, check_precision

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class FrozenNetwork:
    """The forward pass of a network in eval mode whose weights do not change.

    Before its first pass, and again after :meth:`reset`, it makes a copy of the network in which the batch norms are
    folded into the convolutions before them and the weights are in the precision of the pass. The network itself stays
    as it is. Hooks on its modules, those of recorders, are called by the copy too; what they see is not folded.

    Args:
        network: The network, in eval mode.
        fold_norms: Whether batch norms are folded: ``g (W x - m) / s + b`` becomes one convolution. Features stay
            equal to about 1e-6.
        precision: ``'fp32'``: that of its weights. ``'bf16'``, ``'fp16'``: weights of convolutions and linear layers
            are cast once, and the pass runs under autocast; features then differ by about 1 %.

    Raises:
        SettingError: The precision is none of these.
    """

    def __init__(self, network: nn.Module, fold_norms: bool = True, precision: str = 'fp32') -> None:
        if precision not in PRECISIONS:
            raise SettingError(
                f'FrozenTeacherDistill: teacher_precision={precision!r} must be one of {", ".join(PRECISIONS)}.'
            )
        self.network = network
        self.fold_norms = fold_norms
        self.dtype = PRECISIONS[precision]
        self._prepared: nn.Module | None = None

    def prepare(self, images: Tensor) -> None:
        """Fold and cast, if that is still to do.

        Args:
            images: ``B x C x H x W``; two of them are run through the network to see what follows on what.

        Raises:
            SettingError: The device cannot compute in the precision.
        """
        if self._prepared is not None:
            return
        if self.dtype:
            check_precision(self.dtype, images.device, 'model.teacher_precision')
        if not self.fold_norms and not self.dtype:
            self._prepared = self.network
            return
        network = _copy_without_hooks(self.network)
        hooked = {name: module for name, module in self.network.named_modules() if _hooks(module) != [{}, {}]}
        with torch.no_grad():
            if self.fold_norms:
                for parent, name, conv in _foldable_norms(network, images[:2], set(hooked)):
                    folded = fuse_conv_bn_eval(conv, getattr(parent, name))
                    conv.weight, conv.bias = folded.weight, folded.bias
                    setattr(parent, name, nn.Identity())
            if self.dtype:
                for module in network.modules():
                    # the other layers keep their weights: autocast decides what they compute in
                    if isinstance(module, nn.Conv2d | nn.Linear):
                        module.to(self.dtype)
        copies = dict(network.named_modules())
        for name, module in hooked.items():
            copies[name]._forward_hooks, copies[name]._forward_pre_hooks = _hooks(module)
        self._prepared = network

    def __call__(self, images: Tensor) -> None:
        """Run the network; its features are what hooks record.

        Args:
            images: ``B x C x H x W``.
        """
        with torch.no_grad(), torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            self._prepared(images, mode='tensor')

    def reset(self) -> None:
        """Forget the copy: the network was moved or cast, or has other weights now."""
        self._prepared = None


def _hooks(module: nn.Module) -> list[dict]:
    return [module._forward_hooks, module._forward_pre_hooks]


def _copy_without_hooks(network: nn.Module) -> nn.Module:
    # a plain deepcopy would copy the recorders that the hooks belong to
    memo = {id(hooks): OrderedDict() for module in network.modules() for hooks in _hooks(module)}
    return copy.deepcopy(network, memo)


def _foldable_norms(network: nn.Module, images: Tensor, hooked: set[str]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Find the batch norms that can be folded by watching a forward pass.

    Such a norm is called once, on the output of a convolution that is called once, and nothing else takes that output:
    no function between the modules, and no hook.

    Args:
        network: The network, in eval mode.
        images: A few images.
        hooked: The names of modules whose inputs or outputs hooks will look at.

    Returns:
        The parent module of each norm, its name in it, and the convolution.
    """
    convs: dict[int, nn.Module] = {}
    norms: dict[nn.Module, int] = {}
    calls: Counter[nn.Module] = Counter()
    seen_by_hooks: set[int] = set()

    def record_hooked(_: nn.Module, inputs: tuple, output: Any) -> None:
        seen_by_hooks.update(id(tensor) for tensor in _tensors((inputs, output)))

    def record_conv(module: nn.Module, _: tuple, output: Tensor) -> None:
        calls[module] += 1
        convs[id(output)] = module

    def record_norm(module: nn.Module, inputs: tuple) -> None:
        calls[module] += 1
        norms[module] = id(inputs[0])

    handles = []
    for name, module in network.named_modules():
        if name in hooked:
            handles.append(module.register_forward_hook(record_hooked))
        # exactly these types: a subclass does more
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(record_conv))
        elif type(module) in NORMS and name not in hooked:
            handles.append(module.register_forward_pre_hook(record_norm))
    try:
        with _Uses() as uses:
            network(images, mode='tensor')
    finally:
        for handle in handles:
            handle.remove()
    return [
        (parent, name, convs[norms[norm]])
        for parent in network.modules()
        for name, norm in parent.named_children()
        if norm in norms
        and norm.running_mean is not None
        and norms[norm] in convs.keys() - seen_by_hooks
        and uses.counts[norms[norm]] == 1
        and calls[norm] == calls[convs[norms[norm]]] == 1
    ]


class _Uses(TorchFunctionMode):
    """Count how many functions that compute tensors take each tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self._alive: list[Tensor] = []  # an id is that of one tensor only as long as the tensor lives

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:  # its signature is torch's
        result = func(*args, **(kwargs or {}))
        if _tensors(result):  # asking for a shape is no use
            used = _tensors((args, kwargs))
            self._alive += used
            self.counts.update(map(id, used))
        return result


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for item in value for tensor in _tensors(item)]
