"""Reading of checkpoints as plain weights."""

import hashlib
import importlib
import io
import os
import re
import urllib.parse
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from icd_mmrazor.checkpoints.allowed import allowed_in_checkpoints
from icd_mmrazor.checkpoints.downloads import download
from icd_mmrazor.errors import CheckpointError, printable

ZIP = b'PK\x03\x04'  # torch.save has written archives since torch 1.6
NAMED_DIGEST = r'-([0-9a-f]{8,64})\.'  # torch.hub's convention


def read_checkpoint(
    path: str | os.PathLike | BinaryIO, map_location: Any = 'cpu', also_allowed: Sequence[type] = ()
) -> dict:
    """Read a checkpoint with ``weights_only=True``, so that nothing in it can run.

    The checksums of an archive are verified first; files of torch before 1.6 have none. A file of safetensors, which
    holds tensors alone, is recognised by its content.

    Args:
        path: A local file, an open binary file, or an ``https://`` address. What is downloaded is kept in torch's hub
            folder and verified: the address ends in ``#sha256=`` and the sum, or its file name in the first 8 digits
            of the sum, as in model zoos (``resnet18-f37072fd.pth``).
        map_location: As in ``torch.load``.
        also_allowed: Harmless types that the file may hold in addition to tensors and plain values.

    Returns:
        The stored dictionary.

    Raises:
        CheckpointError: The file is missing, damaged, not what its address says, or holds more than tensors and plain
            values.
    """
    if hasattr(path, 'read'):
        return _read(path, 'in memory', map_location, also_allowed)  # type: ignore[arg-type]
    remote = str(path).startswith(('http://', 'https://'))
    file = _download(str(path)) if remote else local_file(path)
    try:
        opened = file.open('rb')
    except OSError as error:
        raise CheckpointError(f'checkpoint {file} cannot be read: {error.strerror}. Allow it, or copy it.') from error
    with opened:
        return _read(opened, str(file), map_location, also_allowed)


def local_file(path: str | os.PathLike) -> Path:
    """Return the file of a checkpoint, with ``~`` expanded.

    Raises:
        CheckpointError: There is no such file, or it is a folder.
    """
    # functions of os.path: those of Path raise for invalid names
    file = Path(os.path.expanduser(path))  # noqa: PTH111
    if not os.path.isfile(file):  # noqa: PTH113
        found = 'it is a folder' if os.path.isdir(file) else 'there is no such file'  # noqa: PTH112
        raise CheckpointError(f'checkpoint {file}: {found} (working folder: {Path.cwd()}).')
    return file


def _read(opened: BinaryIO, name: str, map_location: Any, also_allowed: Sequence[type]) -> dict:
    # the file is opened once, so that what is loaded is what was verified
    try:
        if _is_safetensors(opened):
            tensors = importlib.import_module('safetensors.torch').load(opened.read())
            return {name: tensor.to(map_location or 'cpu') for name, tensor in tensors.items()}
        _check_archive(opened)
        with allowed_in_checkpoints(also_allowed):
            checkpoint = torch.load(opened, map_location=map_location, weights_only=True)
    except ImportError as error:
        raise CheckpointError(
            f'checkpoint {name} is a file of safetensors. Install that package: pip install safetensors.'
        ) from error
    except Exception as error:  # a parser may raise anything for arbitrary bytes
        raise CheckpointError(
            f'checkpoint {name} is damaged or not a plain weights file; it was not unpickled, because a pickle can run '
            f'any code. Reason: {_reason(error)}\nIf you trust its origin, load it yourself once and save only its '
            "weights: torch.save(checkpoint['state_dict'], FILE)."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'checkpoint {name} holds a {type(checkpoint).__name__}, not a dictionary of weights.')
    return checkpoint


def _is_safetensors(opened: BinaryIO) -> bool:
    """Return whether a file starts with the length of a JSON header and the header, as safetensors does."""
    size = opened.seek(0, io.SEEK_END)
    opened.seek(0)
    start = opened.read(9)
    opened.seek(0)
    return start[8:] == b'{' and int.from_bytes(start[:8], 'little') <= size


def _check_archive(opened: BinaryIO) -> None:
    """Refuse an archive that is damaged, or larger unpacked than packed; torch checks neither."""
    size = opened.seek(0, io.SEEK_END)
    opened.seek(0)
    if opened.read(len(ZIP)) == ZIP:
        with zipfile.ZipFile(opened) as archive:
            members = archive.infolist()
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if not stored or sum(member.file_size for member in members) > size:
                raise ValueError('its parts are compressed or overlap; torch.save writes neither')
            if damaged := archive.testzip():
                raise ValueError(f'{damaged} does not match its checksum')
    opened.seek(0)


def _reason(error: Exception) -> str:
    """Shorten torch's message, which also recommends to run any code."""
    text = str(error).rpartition('WeightsUnpickler error:')[2].strip() or type(error).__name__
    return printable([text.splitlines()[0].split('. ')[0]])


def _download(url: str) -> Path:
    """Return the file of an address in torch's hub folder, downloaded if it is missing or damaged."""
    address, _, fragment = url.partition('#')
    try:
        name = Path(urllib.parse.urlsplit(address).path).name
    except ValueError as error:
        raise CheckpointError(f'checkpoint {url} is not an address: {error}. Correct it.') from error
    stated, named = re.fullmatch(r'sha256=([0-9a-f]{64})', fragment.lower()), re.search(NAMED_DIGEST, name)
    digest = stated or named
    if not address.startswith('https://'):
        raise CheckpointError(f'checkpoint {url}: only https:// addresses are downloaded. Download it yourself.')
    if not digest or (fragment and not stated):
        raise CheckpointError(
            f'checkpoint {url} cannot be verified. Add its SHA-256 sum, {address}#sha256=64_HEX_DIGITS, or its first 8 '
            'digits to the file name, as model zoos do (resnet18-f37072fd.pth). Or download it yourself.'
        )
    if stated and not named:  # several addresses may have the same file name
        name = f'{Path(name).stem}-{digest[1][:8]}{Path(name).suffix}'
    file = Path(torch.hub.get_dir(), 'checkpoints', name)
    try:
        if not (file.is_file() and sha256(file).startswith(digest[1])):
            download(address, file, digest[1])
    except OSError as error:
        raise CheckpointError(
            f'checkpoint {url} could not be downloaded ({error}). Download it yourself and give the path (for a '
            'teacher: model.teacher_ckpt=FILE).'
        ) from error
    return file


def sha256(file: Path) -> str:
    """Return the SHA-256 sum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open('rb') as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
