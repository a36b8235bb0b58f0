"""A network that is only read, made as fast as its settings allow."""

import copy
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from icd_mmrazor.datasets.fingerprints import fingerprint_of_tensors
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.precision import PRECISIONS, check_precision

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
HOOKS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_forward_hooks_with_kwargs',
    '_forward_pre_hooks_with_kwargs',
    '_forward_hooks_always_called',
)


class FrozenNetwork:
    """The forward pass of a network in eval mode whose weights do not change.

    Before its first pass it makes a copy of the network, in which the batch norms are folded into the convolutions
    before them and the weights are in the precision of the pass; what is neither folded nor cast is shared. It does so
    again after :meth:`reset`, after ``load_state_dict`` of the network, and where weights or hooks have changed since:
    each :meth:`prepare` looks whether torch counts a change of a tensor, :meth:`look_again` at all modules and at the
    values themselves, which torch does not count where they are changed through ``.data``. The network itself stays as
    it is. Hooks on its modules, those of recorders, are called by the copy too; a norm or convolution that a hook looks
    at is not folded, so hooks see what they would see in the network. If one looks at it later, or no longer where one
    did, another copy is made.

    mmcv's ``fuse_conv_bn`` takes a norm to follow the convolution that is defined before it, which is not so in a
    wide ResNet. Here a forward pass is watched.

    Args:
        network: The network, in eval mode.
        fold_norms: Whether batch norms are folded: ``g (W x - m) / s + b`` becomes one convolution. In float32 features
            stay equal to 1e-5, where convolutions are not computed in TF32.
        precision: ``'fp32'``: that of its weights. ``'bf16'``, ``'fp16'``: weights of convolutions and linear layers
            are cast once, and the pass runs under autocast; features then differ by up to 3 %.

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
        self._hooks: list[tuple[dict, int]] = []  # of each module, and how many they were
        network.register_load_state_dict_post_hook(self.reset)

    @torch.compiler.disable
    @torch.no_grad()
    def prepare(self, images: Any, data_samples: list | None = None) -> None:
        """Fold and cast, if that is still to do.

        Args:
            images: What the network takes; ``B x C x H x W``, or nothing is folded. Two of the images are run through
                the copy to see what follows on what.
            data_samples: The same.

        Raises:
            SettingError: The device cannot compute in the precision.
        """
        # no more than microseconds for each: it is asked before every pass
        if self._prepared is not None and self._versions == self._versions_now() and not self._hooks_changed():
            return
        if self.dtype:
            check_precision(self.dtype, self._device, 'model.teacher_precision')
        hooked = {name for name, module in self.network.named_modules() if any(_hooks_of(module))}
        network = self._copy()
        if self.fold_norms and isinstance(images, Tensor):
            _fold_norms(network, (images[:2], data_samples and data_samples[:2]), hooked)
        if self.dtype:
            for module in network.modules():
                # the other layers keep their weights: autocast decides what they compute in
                if isinstance(module, nn.Conv2d | nn.Linear):
                    for name, weight in list(module.named_parameters(recurse=False)):
                        setattr(module, name, nn.Parameter(weight.to(self.dtype), requires_grad=False))
        for module, original in zip(network.modules(), self.network.modules(), strict=True):
            for hooks in HOOKS:
                setattr(module, hooks, getattr(original, hooks))
        watched = [hooks for m in self.network.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._hooks = [(hooks, len(hooks)) for hooks in watched]
        self._prepared = network
        self._tensors = [*self.network.parameters(), *self.network.buffers()]
        self._versions, self._contents = self._versions_now(), _contents(self.network)

    def _versions_now(self) -> list[int]:
        return [tensor._version for tensor in self._tensors]

    def _hooks_changed(self) -> bool:
        return any(len(hooks) != number for hooks, number in self._hooks)

    def look_again(self) -> None:
        """Forget the copy if the network has other modules or other values than it was made from."""
        if self._prepared is not None and _contents(self.network) != self._contents:
            self.reset()

    def __call__(self, images: Any, data_samples: list | None = None) -> None:
        """Run the network; its features are what hooks record.

        Args:
            images: What the network takes: ``B x C x H x W``.
            data_samples: Those of the images, for networks that want them.
        """
        with torch.no_grad(), torch.autocast(self._device.type, self.dtype, enabled=self.dtype is not None):
            self._prepared(images, data_samples, mode='tensor')

    def reset(self, *_: Any) -> None:
        """Forget the copy: the network was moved or cast, or has other weights now."""
        self._prepared = None

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters(), torch.empty(0)).device

    def _copy(self) -> nn.Module:
        """Copy the modules, but neither the weights nor the hooks: what these belong to would be copied too."""
        attributes = [item for module in self.network.modules() for item in vars(module).items()]
        hooks = [value for name, value in attributes if '_hooks' in name and isinstance(value, dict)]
        memo: dict[int, Any] = {id(each): OrderedDict() for each in hooks}
        memo |= {id(tensor): tensor for tensor in (*self.network.parameters(), *self.network.buffers())}
        return copy.deepcopy(self.network, memo)


def _contents(network: nn.Module) -> tuple[list[int], int]:
    """Return what a network is made of: its modules and the values of its tensors."""
    modules = [id(module) for module in network.modules()]
    return modules, fingerprint_of_tensors([*network.parameters(), *network.buffers()])


def _hooks_of(module: nn.Module) -> list[dict]:
    return [getattr(module, hooks) for hooks in HOOKS]


def _fold_norms(network: nn.Module, batch: tuple[Tensor, list | None], hooked: set[str]) -> None:
    """Fold those batch norms of a network that can be, and make sure that it still computes the same.

    Args:
        network: The network, in eval mode; changed.
        batch: A few images and their data samples.
        hooked: The names of modules whose inputs or outputs hooks will look at.
    """
    foldable, want = _foldable_norms(network, batch, hooked)
    if not foldable:
        return
    undo = []
    for parent, name, conv in foldable:
        norm = getattr(parent, name)
        undo.append((parent, name, norm, conv, conv.weight, conv.bias))
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        setattr(parent, name, nn.Identity())
    got = _tensors(network(*batch, mode='tensor'))
    # a wrong fold changes everything; TF32 on a GPU the third digit
    if all(torch.allclose(a, b, rtol=0.02, atol=0.02 * float(b.abs().max())) for a, b in zip(got, want, strict=True)):
        return
    for parent, name, norm, conv, weight, bias in undo:
        setattr(parent, name, norm)
        conv.weight, conv.bias = weight, bias
    print_log(
        f'FrozenTeacherDistill: with its batch norms folded the teacher ({type(network).__name__}) computes something '
        'else, so they are not folded. model.fold_teacher_norms=False leaves out the trial.',
        logger='current',
        level=logging.WARNING,
    )


def _foldable_norms(
    network: nn.Module, batch: tuple[Tensor, list | None], hooked: set[str]
) -> tuple[list[tuple[nn.Module, str, nn.Module]], list[Tensor]]:
    """Find the batch norms that can be folded by watching a forward pass.

    Such a norm has one name and is called once, on the output of a convolution that is called once, and nothing else
    takes that output: no function between the modules, and no hook.

    Args:
        network: The network, in eval mode.
        batch: A few images and their data samples.
        hooked: The names of modules whose inputs or outputs hooks will look at.

    Returns:
        The parent module of each norm, its name in it, and the convolution; and the output of the pass.
    """
    convs: dict[int, nn.Module] = {}
    outputs: list[Tensor] = []  # kept: an id is that of one tensor only as long as the tensor lives
    norms: dict[nn.Module, int] = {}
    calls: Counter[nn.Module] = Counter()
    seen_by_hooks: set[int] = set()

    def record_hooked(_: nn.Module, inputs: tuple, output: Any) -> None:
        seen_by_hooks.update(id(tensor) for tensor in _tensors((inputs, output)))

    def record_conv(module: nn.Module, _: tuple, output: Tensor) -> None:
        calls[module] += 1
        convs[id(output)] = module
        outputs.append(output)

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
            result = network(*batch, mode='tensor')
    finally:
        for handle in handles:
            handle.remove()
    owners = Counter(child for module in network.modules() for child in module._modules.values())
    foldable = [
        (parent, name, convs[norms[norm]])
        for parent in network.modules()
        for name, norm in parent.named_children()
        if norm in norms
        and norm.running_mean is not None
        and norms[norm] in convs.keys() - seen_by_hooks
        and uses.counts[norms[norm]] == 1
        and calls[norm] == calls[convs[norms[norm]]] == owners[norm] == 1
    ]
    return foldable, _tensors(result)


class _Uses(TorchFunctionMode):
    """Count how many functions that compute tensors take each tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self._alive: list[Tensor] = []  # as above

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
