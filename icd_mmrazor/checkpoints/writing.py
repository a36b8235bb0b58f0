"""Atomic file writes."""

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend

from icd_mmrazor.errors import CheckpointError, SettingError

# temporary files of atomic_write, of the files that a training writes
ABANDONED = re.compile(r'\.(?:.+\.pth|last_checkpoint|student\.py)\.(\d+)')


def atomic_write(content: str | bytes, path: Path) -> None:
    """Write a file so that either the new one is complete or the old one stays, even after a power cut.

    Args:
        content: The content; text is written in UTF-8.
        path: The file; its folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with temporary.open('wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(values: Any, path: Path) -> None:
    """Write a JSON file atomically; its folder is created."""
    atomic_write(json.dumps(values), path)


def write_arrays(arrays: Mapping[str, Any], path: Path) -> None:
    """Write NumPy arrays as a ``.npz`` file, whole or not at all."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    atomic_write(content.getvalue(), path)


def write_checkpoint(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write a checkpoint from what ``torch.save`` takes; otherwise as :func:`write_checkpoint_file`."""
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_checkpoint_file(content.getvalue(), path)


def write_checkpoint_file(content: str | bytes, path: str | os.PathLike) -> None:
    """Write a checkpoint, or a file next to it, atomically.

    Args:
        content: The content of the file.
        path: The file; its folder is created.

    Raises:
        CheckpointError: It cannot be written; the old file stays.
    """
    path = Path(path)
    try:
        atomic_write(content, path)
    except OSError as error:
        raise CheckpointError(
            f'{path} could not be written: {error.strerror or error}. Make room for {len(content) / 2**20:.1f} MB, '
            f'or allow writing in {path.parent}. Nothing there has changed: continue with --resume, or '
            'repeat the command of tools/distill.py.'
        ) from error


@register_backend('atomic')
class AtomicBackend(LocalBackend):
    """The local disk, to which mmengine writes files whole or not at all.

    Its own backend writes in place, so that a killed run or a full disk leaves half a file.

    Config example::

        default_hooks=dict(checkpoint=dict(type='CheckpointHook', backend_args=dict(backend='atomic')))
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file as :func:`write_checkpoint_file` does."""
        write_checkpoint_file(obj, filepath)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write a text file likewise."""
        self.put(obj.encode(encoding), filepath)


def check_writable(path: Path, setting: str, suffixes: Sequence[str] = (), new: bool = False) -> None:
    """Check that a file can be written, before the work that produces it; its folders need not exist.

    Args:
        path: The file.
        setting: Where it is named, for the message: ``'--out'``.
        suffixes: What its name may end in; anything by default.
        new: Whether it must not exist yet.

    Raises:
        SettingError: It is a folder, its folder cannot be written or created, its name ends in something else, or it
            exists although it should be new.
    """
    if suffixes and path.suffix not in suffixes:
        raise SettingError(f'{setting} {path} must end in {" or ".join(suffixes)}.')
    if path.is_dir():
        raise SettingError(f'{setting} {path} is a folder. Give a file.')
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        problem = 'is not writable' if folder.is_dir() else 'is not a folder'
        raise SettingError(f'{setting} {path}: {folder} {problem}. Give a file elsewhere.')
    if new and path.exists():
        raise SettingError(f'{setting} {path} exists. Give another path.')


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the temporary files of trainings in a folder that were killed while writing; return them."""
    found = [(file, ABANDONED.fullmatch(file.name)) for file in folder.glob('.*')]
    removed = [file for file, match in found if match and file.is_file() and not _is_running(int(match[1]))]
    for file in removed:
        file.unlink(missing_ok=True)
    return removed


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return process != os.getpid()
