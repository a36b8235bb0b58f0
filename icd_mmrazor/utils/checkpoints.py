"""Checkpoints are read as plain weights, loaded strictly, and written whole or not at all."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icd_mmrazor.compat import allowed_in_checkpoints
from icd_mmrazor.utils.errors import CheckpointError

SHOWN_KEYS = 4


def read_checkpoint(path: str | os.PathLike, map_location: Any = 'cpu', also_allowed: Sequence[type] = ()) -> dict:
    """Read a checkpoint with ``weights_only=True``: nothing in it can run.

    Args:
        path: A local file, or an ``https://`` address, which is downloaded once into torch's hub folder.
        map_location: As of ``torch.load``.
        also_allowed: Harmless types that the file may hold beside tensors and plain values.

    Returns:
        The stored dictionary.

    Raises:
        CheckpointError: There is no such file, it is damaged, or it holds more than tensors and plain values.
    """
    file = _download(str(path)) if str(path).startswith(('http://', 'https://')) else Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f'checkpoint {file}: there is no such file (working folder: {Path.cwd()}).')
    try:
        with allowed_in_checkpoints(also_allowed):
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # a parser given any bytes raises anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f'checkpoint {file} is not a plain weights file, or it is damaged; it was not unpickled, because a pickle '
            f'can run any code. torch.load(weights_only=True) says: {_reason(reason)}\nIf you trust where it comes '
            "from, load it yourself once and save its weights alone: torch.save(checkpoint['state_dict'], FILE)."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'checkpoint {file} holds a {type(checkpoint).__name__}, not a dictionary of weights.')
    return checkpoint


def _reason(lines: list[str]) -> str:
    """Return the line of torch's long message that names the object it refused."""
    return next((line.strip() for line in lines if 'Unsupported' in line or 'GLOBAL' in line), lines[0])


def _download(url: str) -> Path:
    if not url.startswith('https://'):
        raise CheckpointError(f'checkpoint {url}: only https:// addresses are downloaded. Download it yourself.')
    folder = Path(torch.hub.get_dir(), 'checkpoints')
    file = folder / url.rsplit('/', 1)[-1]
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except OSError as error:
            raise CheckpointError(
                f'checkpoint {url} could not be downloaded ({error}). Download it yourself and give the path (of '
                'a teacher: model.teacher_ckpt=FILE).'
            ) from error
    return file


def weights_of(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> dict[str, Tensor]:
    """Return the weights of one plain model.

    Of a distillation checkpoint (mmrazor's too, with the teacher inside) these are the student's.

    Args:
        checkpoint: A checkpoint of mmengine (``{'state_dict': ...}``) or a bare state dict.
        path: Its file, for the message.

    Raises:
        CheckpointError: There are no weights in it.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        hint = ''
        if isinstance(checkpoint.get('model'), Mapping):
            hint = (
                ' It has the form of the published teachers: convert it with '
                'tools/model_converters/repdistiller_to_mmpretrain.py SRC DST.'
            )
        raise CheckpointError(
            f'checkpoint {path} holds no state dict; its keys: {", ".join(map(str, list(checkpoint)[:8]))}.{hint}'
        )
    for prefix in ('module.', 'architecture.'):
        if any(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): v for name, v in weights.items() if name.startswith(prefix)}
    return dict(weights)


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load weights into a model if every one fits; otherwise change nothing.

    Args:
        model: The model to fill.
        weights: Its state dict. Only the batch norms' ``num_batches_tracked`` may be absent.
        what: What is loaded from where, for the message: ``"teacher_ckpt='FILE'"``.

    Raises:
        CheckpointError: Names or shapes differ; the first few are listed.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in weights and not name.endswith('num_batches_tracked')]
    unexpected = [name for name in weights if name not in own]
    shapes = [
        f'{name}: {tuple(weights[name].shape)} in the file, {tuple(tensor.shape)} in the model'
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if not missing and not unexpected and not shapes:
        model.load_state_dict(dict(weights), strict=False)
        return
    lines = [f'{what} does not fit the model.']
    for title, names in (('other shapes', shapes), ('not in the file', missing), ('only in the file', unexpected)):
        if names:
            more = f' (and {len(names) - SHOWN_KEYS} more)' if len(names) > SHOWN_KEYS else ''
            lines.append(f'  {title}: {"; ".join(names[:SHOWN_KEYS])}{more}')
    lines.append(_remedy(own, weights, bool(missing or unexpected), len(shapes)))
    raise CheckpointError('\n'.join(lines))


def _remedy(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], other_names: bool, other_shapes: int) -> str:
    last = [name for name, tensor in own.items() if name.endswith('.weight') and tensor.ndim == 2][-1:]
    if not other_names and last and other_shapes <= 2 and weights[last[0]].shape != own[last[0]].shape:
        return (
            f'  The file was trained on {len(weights[last[0]])} classes, the config says {len(own[last[0]])}: '
            'set head.num_classes, or give the checkpoint of the right dataset.'
        )
    return '  Give the checkpoint of this network, or name in the config the network that the file holds.'


def write_checkpoint(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write a checkpoint to a temporary file beside ``path`` and rename it: the file is there whole or not at all.

    Args:
        checkpoint: What ``torch.save`` takes.
        path: The file; its folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        torch.save(checkpoint, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
