"""The lock of a work folder."""

import errno
import fcntl
from pathlib import Path

import pytest

from icd_mmrazor.errors import SettingError
from icd_mmrazor.workflow.lock import FILE, WorkFolderLock


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with WorkFolderLock(tmp_path / 'new'):
        with pytest.raises(SettingError, match='new is in use by another command'):
            WorkFolderLock(tmp_path / 'new').take()
        WorkFolderLock(tmp_path / 'other').take()
    WorkFolderLock(tmp_path / 'new').take()


@pytest.mark.filterwarnings('ignore:flock not supported')
def test_what_a_killed_process_left_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks (Lustre mounted without flock), of which there is none here."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', flock)
    # as filelock writes it: process and machine
    (tmp_path / FILE).write_text('4711\nnode7\n')
    with WorkFolderLock(tmp_path):
        pass
