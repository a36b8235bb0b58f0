"""Lock of a work folder."""

from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from icd_mmrazor.errors import SettingError

FILE = '.lock'


class WorkFolderLock:
    """Keeps other commands out of a work folder, by a file ``.lock`` that the system unlocks when its process ends.

    A context takes the lock, and releases it at its end.

    Args:
        work_dir: The folder; it is created when the lock is taken.
    """

    def __init__(self, work_dir: Path) -> None:
        self.work_dir, self._lock = work_dir, FileLock(work_dir / FILE)

    def take(self) -> None:
        """Take the lock.

        Raises:
            SettingError: Another command has it, or the folder cannot be written.
        """
        try:
            self.work_dir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            # without locks of the file system, filelock takes the file for one, even if a killed process left it
            if not isinstance(self._lock, SoftFileLock):
                raise SettingError(
                    f'{self.work_dir} is in use by another command. Wait for its end, or give another --work-dir.'
                ) from None
        except NotImplementedError:  # the same in older versions of filelock
            pass
        except OSError as error:
            raise SettingError(
                f'--work-dir {self.work_dir} cannot be written: {error.strerror or error}. Give another folder.'
            ) from error

    def release(self) -> None:
        """Release the lock, if it was taken."""
        self._lock.release()

    def __enter__(self) -> 'WorkFolderLock':
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
