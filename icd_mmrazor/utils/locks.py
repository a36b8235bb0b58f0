"""One runner at a time in a folder."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from icd_mmrazor.errors import SettingError

POLL_SECONDS = 0.1
# what a killed runner has left ends in this time
GRACE_SECONDS = 10


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep other runners out of a folder.

    Args:
        folder: It is made if need be, and gets a file ``.lock``.

    Yields:
        The open lock. A training that inherits it keeps the folder locked if it outlives its runner.

    Raises:
        SettingError: Another runner, or a training of one, works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / '.lock', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        until = time.monotonic() + GRACE_SECONDS
        while not _taken(lock):
            owner = _owner(lock)
            if _may_live(owner) or time.monotonic() > until:
                raise SettingError(
                    f'{folder} is in use by another runner ({owner or "it has not said which"}) or by a training '
                    'that it left behind. Let it end, or give another --work-dir.'
                )
            time.sleep(POLL_SECONDS)
        text = f'process {os.getpid()} on {socket.gethostname()}\n'.encode()
        # not emptied first: another runner may read it at any moment, and reads the first line
        os.pwrite(lock, text, 0)
        os.ftruncate(lock, len(text))
        yield lock
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock: int) -> str:
    first, _, _ = os.pread(lock, 1000, 0).decode(errors='replace').partition('\n')
    return first.strip()


def _may_live(owner: str) -> bool:
    # of a lock that was taken just now and names nobody yet, the next look tells
    if not owner:
        return False
    words = owner.split()
    if len(words) != 4 or words[3] != socket.gethostname():
        return True
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        pass
    return True
