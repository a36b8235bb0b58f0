"""Weights in checkpoints, compared with those of a network."""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icd_mmrazor.errors import CheckpointError, printable

STUDENT = 'architecture.'
OF_PROCESSES = re.compile(r'^module\.')  # mmengine strips it, too
SHOWN_NAMES = 3
# a file with a smaller part of a network's weights belongs to another network
LEAST_PART = 0.5


class Fit(NamedTuple):
    """Names of weights in a network and in a file, without the counters of batch norms."""

    filled: list[str]  # in both, with the same shape
    missing: list[str]  # in the network only
    other_shapes: list[str]  # in both, with different shapes
    unused: list[str]  # in the file only

    def of(self, prefix: str) -> 'Fit':
        """Return the fit of the part whose names start with a prefix; ``unused`` stays."""
        filled, missing, other_shapes = ([name for name in names if name.startswith(prefix)] for names in self[:3])
        return Fit(filled, missing, other_shapes, self.unused)

    def without(self, prefix: str) -> 'Fit':
        """Return the fit without the part whose names start with a prefix."""
        return Fit(*([name for name in names if not name.startswith(prefix)] for names in self))

    @property
    def total(self) -> int:
        """The number of the network's weights."""
        return len(self.filled) + len(self.missing) + len(self.other_shapes)

    @property
    def part(self) -> float:
        """The part of the network's weights that the file fills."""
        return len(self.filled) / self.total if self.total else 1.0

    def __str__(self) -> str:
        titles = ('not in the file', 'of another shape in the file', 'only in the file')
        texts = [f'{title}: {_first(names)}' for title, names in zip(titles, self[1:], strict=True) if names]
        return '; '.join([f'{len(self.filled)} of {self.total} weights', *texts])


def weights_of(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> dict[str, Tensor]:
    """Return the weights of one plain model; from a distillation's checkpoint the student's.

    Args:
        checkpoint: A checkpoint of mmengine (``{'state_dict': ...}``) or a bare state dict.
        path: Its file, for the message.

    Raises:
        CheckpointError: It holds no weights, or others than dense tensors of numbers.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    plain = isinstance(weights, Mapping) and all(isinstance(k, str) and _is_plain(v) for k, v in weights.items())
    if not plain or not weights:
        message = f'checkpoint {path} holds no state dict; its keys: {printable(list(checkpoint)[:8])}.'
        if isinstance(checkpoint.get('model'), Mapping):
            message += ' Convert a published teacher: tools/model_converters/repdistiller_to_mmpretrain.py SRC DST.'
        raise CheckpointError(message)
    for prefix in ('module.', STUDENT):
        if any(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): v for name, v in weights.items() if name.startswith(prefix)}
    return dict(weights)


def weights_digest(network: nn.Module) -> str:
    """Return a digest of the weights and buffers of a network, the same on every device and in every memory layout.

    A network that stands for another tells the other's, its ``weights_digest``.
    """
    if isinstance(told := getattr(network, 'weights_digest', None), str):
        return told
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)} '.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load weights into a model if all of them fit; otherwise change nothing.

    Args:
        model: The model.
        weights: Its state dict. Only ``num_batches_tracked`` of batch norms may be absent.
        what: What is loaded from where, for the message: ``"teacher_ckpt='FILE'"``.

    Raises:
        CheckpointError: Names or shapes differ.
    """
    check_fit(model.state_dict(), weights, what)
    model.load_state_dict(dict(weights), strict=False)


def check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], what: str) -> None:
    """Check that weights fit a model, given its state dict, by names and shapes; otherwise as :func:`load_strictly`."""
    fit = _compare({k: v for k, v in own.items() if _counts(k) or k in weights}, weights)
    unused = [name for name in weights if name not in own]
    if not (fit.missing or fit.other_shapes or unused):
        return
    shapes = [
        f'{name}: {tuple(weights[name].shape)!s:.80} in the file, {tuple(own[name].shape)} in the model'
        for name in fit.other_shapes
    ]
    lists = {'other shapes': shapes, 'not in the file': fit.missing, 'only in the file': unused}
    lines = [f'{what} does not fit the model.']
    lines += [f'  {title}: {_first(names, "; ")}' for title, names in lists.items() if names]
    last = [name for name, tensor in own.items() if name.endswith('.weight') and tensor.ndim == 2][-1:]
    # and maybe its bias; the features are as wide as here
    classes_alone = last and last[0] in fit.other_shapes and weights[last[0]].shape[1:] == own[last[0]].shape[1:]
    if classes_alone and len(shapes) <= 2 and not (fit.missing or unused):
        lines.append(
            f'  The file was trained on {len(weights[last[0]])} classes, the config says {len(own[last[0]])}: '
            'set head.num_classes, or give the checkpoint of the right dataset.'
        )
    else:
        lines.append('  Give the checkpoint of this network, or name in the config the network that the file holds.')
    raise CheckpointError('\n'.join(lines))


def tensors_in(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors in a checkpoint, or in a bare state dict, by the names that mmengine loads them under."""
    weights = checkpoint.get('state_dict', checkpoint)
    weights = weights if isinstance(weights, Mapping) else {}
    return {OF_PROCESSES.sub('', str(name)): value for name, value in weights.items() if isinstance(value, Tensor)}


def named_for(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights for a network, if one is a distillation and the other a plain classifier, which is its student."""
    has_student = isinstance(getattr(network, 'architecture', None), nn.Module)
    student = {name: value for name, value in weights.items() if name.startswith(STUDENT)}
    if has_student and not student:
        return {STUDENT + name: value for name, value in weights.items()}
    if student and not has_student:
        return {name.removeprefix(STUDENT): value for name, value in student.items()}
    return dict(weights)


def fit_of(network: nn.Module, weights: Mapping[str, Tensor]) -> Fit:
    """Compare weights with those of a network, after the network's own conversions of what it loads.

    mmpretrain's networks rename weights and resize position embeddings in such conversions. Buffers that a network
    recomputes, and therefore removes from what it loads, count as filled. Nothing is loaded.
    """
    modules = [(f'{name}.' if name else '', m) for name, m in network.named_modules(remove_duplicate=False)]
    own: dict[str, Any] = {}
    in_file, weights = weights, dict(weights)
    for prefix, module in modules:
        module._save_to_state_dict(own, prefix, keep_vars=True)
        for convert in module._load_state_dict_pre_hooks.values():
            convert(weights, prefix, {}, False, [], [], [])
    own = {name: value for name, value in own.items() if _counts(name) and isinstance(value, Tensor)}
    unused = [name for name in weights if name not in own and _counts(name)]
    return _compare(own, {**in_file, **weights})._replace(unused=unused)


def _compare(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Fit:
    common = [name for name in own if name in weights]
    same = {name for name in common if weights[name].shape == own[name].shape}
    return Fit(
        filled=[name for name in common if name in same],
        missing=[name for name in own if name not in weights],
        other_shapes=[name for name in common if name not in same],
        unused=[name for name in weights if name not in own],
    )


def _is_plain(value: Any) -> bool:
    """Return whether a value is a dense tensor of real numbers, which a network can take."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_complex() or value.is_quantized)
    )


def _counts(name: str) -> bool:
    return not name.endswith('num_batches_tracked')


def _first(names: list[str], separator: str = ', ') -> str:
    more = f' and {len(names) - SHOWN_NAMES} more' if len(names) > SHOWN_NAMES else ''
    return f'{printable(names[:SHOWN_NAMES], separator)}{more}'
