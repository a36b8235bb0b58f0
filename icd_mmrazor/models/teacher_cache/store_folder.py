"""The folder of a store: what it says about itself."""

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mmengine.logging import print_log

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.configuration.changes import MISSING, settings_of, shown
from icd_mmrazor.errors import CacheError, SettingError

ABOUT, CHECKS, ROWS, LOCK = 'about.json', 'checks.bin', 'rows.bin', '.creation.lock'
KIND, VERSION = 'icd_mmrazor.teacher_cache', 1
PATH = 'model.teacher_cache.path'
OTHER_PLACE = f'Delete the folder, or give another {PATH}.'
LOCK_SECONDS = 60
SHOWN = 4
UNITS = {'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12}
CHECK_BYTES = 8
# rows are padded to a multiple of it
ALIGNMENT = 8


def read_about(folder: Path) -> dict[str, Any] | None:
    """Read ``about.json``, as :meth:`OutputStore.about` does."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except FileNotFoundError:
        free = _is_free(folder)
        if (folder / ABOUT).is_file():  # just created by another process
            return read_about(folder)
        if free:
            return None
        raise CacheError(f'{folder} has other files, and no {ABOUT} of a teacher cache. Give another {PATH}.') from None
    except OSError as error:
        raise unreadable(folder, error) from error
    except (ValueError, RecursionError) as error:
        raise CacheError(f'{folder}/{ABOUT} is damaged. {OTHER_PLACE}') from error
    if not isinstance(about, dict) or about.pop('kind', None) != KIND:
        raise CacheError(f'{folder}/{ABOUT} is not of a teacher cache. {OTHER_PLACE}')
    if about.get('version') != VERSION:
        version = shown(about.get('version', MISSING))
        raise CacheError(f'{folder} is a teacher cache of version {version}, expected {VERSION}. {OTHER_PLACE}')
    if about.pop('checksum', None) != _checksum(about):
        raise CacheError(f'{folder}/{ABOUT} is damaged: its checksum differs. {OTHER_PLACE}')
    return about


def padded(row_bytes: int) -> int:
    """Return the number of bytes between the starts of two rows in the file."""
    return -(-row_bytes // ALIGNMENT) * ALIGNMENT


def readable_size(number: int) -> str:
    """Return a number of bytes as text, such as ``'16 GB'``."""
    unit = next(name for name, value in reversed(UNITS.items()) if number >= value or name == 'B')
    return f'{number / UNITS[unit]:.4g} {unit}'


def size_of_files(rows: int, row_bytes: int) -> int:
    """Return the number of bytes that a full table takes."""
    return rows * (padded(row_bytes) + CHECK_BYTES)


def _as_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(facts))


def _checksum(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def unreadable(path: Path, error: OSError) -> CacheError:
    """Explain why a file or folder cannot be read."""
    return CacheError(f'{path} cannot be read: {error.strerror or error}. Allow reading, or give another {PATH}.')


def _is_free(folder: Path) -> bool:
    """Return whether a cache can be created: there is nothing but what an interrupted creation leaves."""
    try:
        files = [file for file in folder.iterdir() if not file.name.startswith('.')]
        return all(file.name in (CHECKS, ROWS) and _is_hole(file) for file in files)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise unreadable(folder, error) from error


def _is_hole(path: Path) -> bool:
    with path.open('rb') as file:
        try:
            os.lseek(file.fileno(), 0, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO
    return False


def create_folder(folder: Path, rows: int, row_bytes: int, facts: Mapping[str, Any]) -> None:
    """Create a store without any rows, unless another process just did; complete an interrupted creation.

    Raises:
        SettingError: The folder cannot be written, or its disk is too small.
        CacheError: The folder holds something else.
    """
    about = dict(version=VERSION, rows=rows, row_bytes=row_bytes, facts=_as_json(facts))
    size = size_of_files(rows, row_bytes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(folder / LOCK).acquire(timeout=LOCK_SECONDS)
        except NotImplementedError:  # a file system without locks
            lock = nullcontext()
        with lock:
            if read_about(folder) is not None:
                return
            check_space(folder, size)
            print_log(f"{folder} is a new cache of the teacher's outputs, of up to {readable_size(size)}.", 'current')
            for name, width in (ROWS, padded(row_bytes)), (CHECKS, CHECK_BYTES):
                (folder / name).touch()
                with (folder / name).open('r+b') as file:
                    file.truncate(rows * width)
                    if name == CHECKS:
                        # All of it is read. A file system in memory takes space for that, and has no error if it is
                        # full, but a signal
                        os.posix_fallocate(file.fileno(), 0, rows * width)
                    os.fsync(file.fileno())
            # last: it makes the folder a cache
            atomic_write(json.dumps(dict(kind=KIND, **about, checksum=_checksum(about)), indent=1), folder / ABOUT)
    except Timeout:
        raise SettingError(f'{PATH} {folder} is locked by another process. Wait for its end.') from None
    except OSError as error:
        raise SettingError(
            f'{PATH} {folder} cannot be written: {error.strerror or error}. Allow writing, or give another one.'
        ) from error


def check_space(folder: Path, size: int) -> None:
    """Check that the disk has room for what is not yet written of files with a total ``size``.

    Raises:
        SettingError: It has not.
    """
    files = [folder / name for name in (ROWS, CHECKS)]
    allocated = sum(file.stat().st_blocks * 512 for file in files if file.is_file())
    free = shutil.disk_usage(folder).free
    missing = size - allocated
    if missing > free:
        raise SettingError(
            f'{PATH} {folder} needs {readable_size(missing)} more, and its disk has {readable_size(free)} free. '
            "Make room, store fewer views, dtype='bfloat16' or only the top_k logits, or give a path on another disk."
        )


def check_facts(folder: Path, about: Mapping[str, Any], facts: Mapping[str, Any], table: Mapping[str, int]) -> None:
    """Check that a folder holds what it should; facts and sizes that are not given do not count.

    Args:
        folder: The folder, for the message.
        about: What it says about itself.
        facts: The facts that it should have.
        table: Its ``rows`` and ``row_bytes``.

    Raises:
        SettingError: Something differs.
    """
    found = [*_differences('', about['facts'], _as_json(facts)), *_differences('', about, table)]
    if found:
        more = f'; {len(found) - SHOWN} more' if len(found) > SHOWN else ''
        raise SettingError(
            f'{PATH} {folder} has the outputs of something else: {"; ".join(found[:SHOWN])}{more}. '
            'Give another path, or delete the folder.'
        )


def _differences(name: str, then: Any, now: Any) -> Iterator[str]:
    """Yield what differs, as far as it is given now; lists are compared as a whole."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key, value in now.items():
            yield from _differences(f'{name}.{key}' if name else key, then.get(key, MISSING), value)
    elif then != now:
        before, after = (dict(settings_of(value, name)) for value in (then, now))
        names = [each for each in {**before, **after} if before.get(each, MISSING) != after.get(each, MISSING)]
        for each in names or [name]:
            there, here = _apart(before.get(each, MISSING), after.get(each, MISSING))
            yield f'{each} is {there} there, {here} here'


def _apart(then: Any, now: Any) -> tuple[str, str]:
    """Return two values as text, long ones from where they differ."""
    if isinstance(then, str) and isinstance(now, str) and shown(then) == shown(now):
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(then, now, strict=False)))
        start = then[:same].rfind(' ') + 1
        then, now = f'...{then[start:]}', f'...{now[start:]}'
    return shown(then), shown(now)
