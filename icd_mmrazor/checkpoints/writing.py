"""Files that are never seen half written."""

import json
import os
import re
from pathlib import Path
from typing import Any

from icd_mmrazor.errors import SettingError

# what write_whole leaves if it is killed, of the files that a training writes
ABANDONED = re.compile(r'\.(?:.+\.pth|last_checkpoint|student\.py)\.(\d+)')


def write_whole(content: str | bytes, path: Path) -> None:
    """Write a file: the new one is there whole, or the old one still is, even if the power goes.

    Args:
        content: The content; a text is written in UTF-8.
        path: The file; its folder exists.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with temporary.open('wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, setting: str) -> None:
    """Check, before the work that makes its content, that a file can be written.

    Args:
        path: The file; folders that are not there can be made.
        setting: Where it was given, for the message: ``'--out'``.

    Raises:
        SettingError: It is a folder, or lies in no folder that may be written.
    """
    if path.is_dir():
        raise SettingError(f'{setting} {path} is a folder. Give a file.')
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        problem = 'may not be written' if folder.is_dir() else 'is no folder'
        raise SettingError(f'{setting} {path}: {folder} {problem}. Give a file elsewhere.')


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the temporary files of processes that were killed while they wrote a file of a training.

    Args:
        folder: A training's ``work_dir``.

    Returns:
        What was removed.
    """
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


def write_json(values: Any, path: Path) -> None:
    """Write a JSON file whole.

    Args:
        values: What ``json.dumps`` takes.
        path: The file; its folder exists.
    """
    write_whole(json.dumps(values), path)
