"""One runner at a time in a folder, and what one that was killed leaves."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.locks import locked


def test_one_runner_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / 'new' / 'folder'
    with (
        locked(folder),
        pytest.raises(SettingError, match=f'{folder} is in use by another runner .process {os.getpid()} '),
        locked(folder),
    ):
        pass
    with locked(folder) as lock:
        # a training that outlives its runner
        orphan = subprocess.Popen([sys.executable, '-S', '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=[lock])
    try:
        with pytest.raises(SettingError, match='in use'), locked(folder):
            pass
    finally:
        orphan.communicate(b'\n')
    with locked(folder):
        pass


def test_what_a_killed_runner_left_is_waited_for(tmp_path: Path) -> None:
    with locked(tmp_path) as lock:
        orphan = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(0.5)'], pass_fds=[lock])
    gone = subprocess.Popen([sys.executable, '-S', '-c', ''])
    gone.wait()
    owner = (tmp_path / '.lock').read_text().replace(str(os.getpid()), str(gone.pid))
    (tmp_path / '.lock').write_text(owner)
    with locked(tmp_path):
        assert orphan.wait(10) == 0


def test_a_lock_that_names_nobody_yet_is_looked_at_again(tmp_path: Path) -> None:
    """Another runner has taken it this moment, and says who it is in the next."""
    file = tmp_path / '.lock'
    with file.open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def say() -> None:
            lock.write(f'process {os.getpid()} on {os.uname().nodename}\n')
            lock.flush()

        later = threading.Timer(0.3, say)
        later.start()
        with pytest.raises(SettingError, match=f'another runner .process {os.getpid()} on '), locked(tmp_path):
            pass
        later.join()


def test_what_a_longer_owner_left_is_not_read(tmp_path: Path) -> None:
    (tmp_path / '.lock').write_text(f'process 1 on {"a" * 200}\n')
    with locked(tmp_path):
        assert (tmp_path / '.lock').read_text() == f'process {os.getpid()} on {os.uname().nodename}\n'
