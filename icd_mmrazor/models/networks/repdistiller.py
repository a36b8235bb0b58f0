"""Published checkpoints of the CIFAR-100 distillation benchmark (RepDistiller), in mmpretrain's form."""

import functools
from pathlib import Path

from mmpretrain.registry import MODELS
from torch import Tensor

from icd_mmrazor.checkpoints.weights import check_fit, weights_of
from icd_mmrazor.errors import CheckpointError, printable
from icd_mmrazor.models.networks.resolve import network_config

HEAD = 'head.fc.'
COUNTER = 'num_batches_tracked'  # the first versions of torch did not write it
# a tensor that is in all published files of some networks: published name -> name of our config
FAMILIES = {
    'layer2.0.downsample.0.weight': {
        f'resnet{depth}': f'res{depth}' for depth in (8, 14, 20, 32, 44, 56, 110, '8x4', '32x4')
    },
    'block2.layer.0.convShortcut.weight': {
        f'wrn_{depth}_{width}': f'wrn{depth}-{width}' for depth in (16, 40) for width in (1, 2)
    },
    'block0.0.weight': {f'vgg{depth}': f'vgg{depth}' for depth in (8, 11, 13, 16, 19)},
    'layer1.0.shortcut.0.weight': {'ResNet50': 'res50'},
    'blocks.0.0.conv.0.weight': {'MobileNetV2': 'mobilenetv2'},
    'layer1.0.bn3.weight': {'ShuffleV1': 'shufflenetv1'},
    'layer1.0.bn5.weight': {'ShuffleV2': 'shufflenetv2'},
}
ARCHITECTURES = {published: ours for networks in FAMILIES.values() for published, ours in networks.items()}


def convert(checkpoint: dict, src: str, architecture: str | None = None) -> dict:
    """Convert the content of a published file to mmpretrain's form.

    Args:
        checkpoint: The content.
        src: The file, for messages.
        architecture: One of ``ARCHITECTURES``; recognised from the tensors by default.

    Returns:
        A checkpoint with ``state_dict``, and in its ``meta`` the architecture and the published accuracy, if known.

    Raises:
        CheckpointError: The file has another form, or tensors that do not fit.
    """
    if 'model' not in checkpoint:
        raise CheckpointError(
            f'{src} does not have the published form {{"model": weights, ...}}; its keys: '
            f"{printable(list(checkpoint)[:8])}. A checkpoint with 'state_dict' needs no conversion."
        )
    published = weights_of({'state_dict': checkpoint['model']}, src)
    architecture = architecture or _recognised(published)
    if architecture is None:
        raise CheckpointError(
            f'{src} does not fit any of {", ".join(ARCHITECTURES)}; its first tensors: '
            f'{printable(list(published)[:4])}. Give --arch to see what differs.'
        )
    own = _state_dict_for(published, architecture)
    weights = _renamed(published, own)
    check_fit(own, weights, f'{src} as {architecture}')
    converted = {name: weights.get(name, like).to(like.dtype) for name, like in own.items()}
    meta = {'architecture': architecture, 'converted_from': Path(src).name}
    accuracy = checkpoint.get('accuracy', checkpoint.get('best_acc'))
    if isinstance(accuracy, int | float) or (isinstance(accuracy, Tensor) and accuracy.numel() == 1):
        meta['accuracy'] = float(accuracy)
    return {'meta': meta, 'state_dict': {name: w.contiguous() for name, w in converted.items()}}


@functools.cache
def _state_dict_of(architecture: str) -> dict[str, Tensor]:
    """Return the tensors of a network with one class."""
    cfg = network_config(f'icd_mmrazor::vanilla/{ARCHITECTURES[architecture]}_cifar100.py', '--arch')
    cfg.head.num_classes = 1
    return MODELS.build(cfg).state_dict()


def _state_dict_for(published: dict[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """Return a network's tensors, with as many classes as a file has, which take no memory."""
    own, classes = _state_dict_of(architecture), next((len(w) for w in reversed(published.values()) if w.ndim == 2), 0)
    return {name: w.expand(max(1, classes), *w.shape[1:]) if name.startswith(HEAD) else w for name, w in own.items()}


def _renamed(published: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published file under the names of ours, up to the first that differs.

    Their networks and mmpretrain's have the same layers in the same order, by other names.
    """
    modules: dict[str, str] = {}
    both = [[name for name in names if not name.endswith(COUNTER)] for names in (published, own)]
    for theirs, ours in zip(*both, strict=False):
        (module, _, kind), (own_module, _, own_kind) = theirs.rpartition('.'), ours.rpartition('.')
        known = modules.get(module) == own_module if module in modules else own_module not in modules.values()
        if not known or kind != own_kind or published[theirs].shape != own[ours].shape:
            break
        modules[module] = own_module
    parts = {name: name.rpartition('.') for name in published}
    return {f'{modules.get(module, module)}.{kind}': published[name] for name, (module, _, kind) in parts.items()}


def _recognised(published: dict[str, Tensor]) -> str | None:
    """Return the architecture that has tensors of these shapes in this order."""
    for marker, networks in FAMILIES.items():
        for architecture in networks if marker in published else ():
            own = _state_dict_for(published, architecture)
            if {*_renamed(published, own)} | {name for name in own if name.endswith(COUNTER)} == {*own}:
                return architecture
    return None
