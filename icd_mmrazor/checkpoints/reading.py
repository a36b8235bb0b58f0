"""Checkpoints are read as plain weights, loaded strictly, and written whole or not at all."""

import io
import os
import re
import urllib.parse
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from icd_mmrazor.checkpoints.allowed import allowed_in_checkpoints
from icd_mmrazor.checkpoints.downloads import download, has_digest
from icd_mmrazor.checkpoints.writing import write_whole
from icd_mmrazor.errors import CheckpointError, printable

SHOWN_KEYS = 4
ZIP = b'PK\x03\x04'  # torch.save writes archives since 1.6
NAMED_DIGEST = r'-([0-9a-f]{8,64})\.'  # torch.hub's convention


def read_checkpoint(
    path: str | os.PathLike | BinaryIO, map_location: Any = 'cpu', also_allowed: Sequence[type] = ()
) -> dict:
    """Read a checkpoint with ``weights_only=True``: nothing in it can run.

    The checksums of its parts are compared first, so that a bit that has flipped is found. (Files that torch before
    1.6 wrote have none.)

    Args:
        path: A local file, or an ``https://`` address, which is downloaded once into torch's hub folder and verified:
            it ends in ``#sha256=`` and the file's sum, or its file name in the first 8 digits of that, as in model
            zoos (``resnet18-f37072fd.pth``). Or what is in such a file, opened.
        map_location: As of ``torch.load``.
        also_allowed: Harmless types that the file may hold beside tensors and plain values.

    Returns:
        The stored dictionary.

    Raises:
        CheckpointError: There is no such file, it is damaged, it holds more than tensors and plain values, or it is not
            what its address says.
    """
    if hasattr(path, 'read'):
        return _read(path, 'in memory', map_location, also_allowed)
    # of os.path: those of Path raise where the name is no name
    remote = str(path).startswith(('http://', 'https://'))
    file = _download(str(path)) if remote else Path(os.path.expanduser(path))  # noqa: PTH111 (see above)
    if not os.path.isfile(file):  # noqa: PTH113 (see above)
        raise CheckpointError(f'checkpoint {file}: there is no such file (working folder: {Path.cwd()}).')
    try:
        opened = file.open('rb')
    except OSError as error:
        raise CheckpointError(f'checkpoint {file} cannot be read: {error.strerror}. Allow it, or copy it.') from error
    with opened:
        return _read(opened, str(file), map_location, also_allowed)


def _read(opened: BinaryIO, name: str, map_location: Any, also_allowed: Sequence[type]) -> dict:
    """Read a file that is opened once, so that what is read is what was checked."""
    try:
        _check_archive(opened)
        with allowed_in_checkpoints(also_allowed):
            checkpoint = torch.load(opened, map_location=map_location, weights_only=True)
    except Exception as error:  # a parser given any bytes raises anything
        raise CheckpointError(
            f'checkpoint {name} is not a plain weights file, or it is damaged; it was not unpickled, because a pickle '
            f'can run any code. Reason: {_reason(error)}\nIf you trust where it comes '
            "from, load it yourself once and save its weights alone: torch.save(checkpoint['state_dict'], FILE)."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'checkpoint {name} holds a {type(checkpoint).__name__}, not a dictionary of weights.')
    return checkpoint


def _check_archive(opened: BinaryIO) -> None:
    """Refuse an archive that is damaged, or larger unpacked than it is; torch's loader checks neither."""
    size = opened.seek(0, io.SEEK_END)
    opened.seek(0)
    zipped = opened.read(len(ZIP)) == ZIP
    if zipped:
        with zipfile.ZipFile(opened) as archive:
            members = archive.infolist()
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if not stored or sum(member.file_size for member in members) > size:
                raise ValueError('its parts are compressed, or larger than the file; torch.save stores them plainly')
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f'{damaged} does not have the checksum that it was written with')
    opened.seek(0)


def _reason(error: Exception) -> str:
    """Return what torch refused, of a long message that also recommends to run any code."""
    said = str(error).rpartition('WeightsUnpickler error:')[2].strip() or type(error).__name__
    return printable([said.splitlines()[0].split('. ')[0]])


def _download(url: str) -> Path:
    """Return the file of an address in torch's hub folder, downloaded if it is not there or is damaged."""
    address, _, fragment = url.partition('#')
    try:
        name = Path(urllib.parse.urlsplit(address).path).name
    except ValueError as error:
        raise CheckpointError(f'checkpoint {url}: this is no address ({error}). Correct it, or give a path.') from error
    stated = re.fullmatch(r'sha256=([0-9a-f]{64})', fragment.lower())
    named = re.search(NAMED_DIGEST, name)
    digest = stated or named
    if not address.startswith('https://'):
        raise CheckpointError(f'checkpoint {url}: only https:// addresses are downloaded. Download it yourself.')
    if not digest or (fragment and not stated):
        raise CheckpointError(
            f'checkpoint {url}: what is downloaded is verified, and the address does not say how. Add its SHA-256 sum, '
            f'{address}#sha256=64_HEX_DIGITS; a file name that ends in its first 8 digits, as those of model zoos do '
            '(resnet18-f37072fd.pth), is enough. Or download it yourself and give the path.'
        )
    if stated and not named:  # files of one name from several addresses
        name = f'{Path(name).stem}-{digest[1][:8]}{Path(name).suffix}'
    file = Path(torch.hub.get_dir(), 'checkpoints', name)
    try:
        if not (file.is_file() and has_digest(file, 'sha256', digest[1])):
            download(address, file, 'sha256', digest[1])
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
        CheckpointError: There are no weights in it, or others than dense tensors of numbers.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(isinstance(name, str) and _is_plain(value) for name, value in weights.items())
    ):
        hint = ''
        if isinstance(checkpoint.get('model'), Mapping):
            hint = (
                ' It has the form of the published teachers: convert it with '
                'tools/model_converters/repdistiller_to_mmpretrain.py SRC DST.'
            )
        raise CheckpointError(
            f'checkpoint {path} holds no state dict; its keys: {printable(list(checkpoint)[:8])}.{hint}'
        )
    for prefix in ('module.', 'architecture.'):
        if any(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): v for name, v in weights.items() if name.startswith(prefix)}
    return dict(weights)


def _is_plain(value: Any) -> bool:
    """Return whether a value is a tensor that can be copied into a network's weights without loss."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_complex() or value.is_quantized)
    )


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load weights into a model if every one fits; otherwise change nothing.

    Args:
        model: The model to fill.
        weights: Its state dict. Only the batch norms' ``num_batches_tracked`` may be absent.
        what: What is loaded from where, for the message: ``"teacher_ckpt='FILE'"``.

    Raises:
        CheckpointError: Names or shapes differ; the first few are listed.
    """
    check_fit(model.state_dict(), weights, what)
    model.load_state_dict(dict(weights), strict=False)


def check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], what: str) -> None:
    """Check that weights fit a model; of both only names and shapes are looked at.

    Args:
        own: The model's state dict, on any device.
        weights: Those to load.
        what: As of :func:`load_strictly`.

    Raises:
        CheckpointError: Names or shapes differ; the first few are listed.
    """
    missing = [name for name in own if name not in weights and not name.endswith('num_batches_tracked')]
    unexpected = [name for name in weights if name not in own]
    shapes = [
        f'{name}: {tuple(weights[name].shape)!s:.80} in the file, {tuple(tensor.shape)} in the model'
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if not missing and not unexpected and not shapes:
        return
    lines = [f'{what} does not fit the model.']
    for title, names in (('other shapes', shapes), ('not in the file', missing), ('only in the file', unexpected)):
        if names:
            more = f' (and {len(names) - SHOWN_KEYS} more)' if len(names) > SHOWN_KEYS else ''
            lines.append(f'  {title}: {printable(names[:SHOWN_KEYS], "; ")}{more}')
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
    """Write a checkpoint: the new file is there whole, or the old one still is.

    Args:
        checkpoint: What ``torch.save`` takes.
        path: The file; its folder is made if need be.

    Raises:
        CheckpointError: It cannot be written.
    """
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_checkpoint_file(content.getvalue(), path)


def write_checkpoint_file(content: str | bytes, path: str | os.PathLike) -> None:
    """Write a checkpoint, or a file beside it, from its content: the new file is there whole, or the old one still is.

    Args:
        content: The content of the file.
        path: The file; its folder is made if need be.

    Raises:
        CheckpointError: It cannot be written; no part of it is left.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(content, path)
    except OSError as error:
        raise CheckpointError(
            f'{path} could not be written: {error.strerror or error} (its {len(content) / 2**20:.1f} MB are needed '
            f'beside what is there). Make room on that disk, or allow writing in {path.parent}. What was there before '
            'is kept: a training goes on from its last checkpoint with --resume.'
        ) from error
