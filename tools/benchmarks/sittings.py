"""What is kept of a study: the logs of its trainings, and when, on what and with which code they were trained."""

import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.training_logs import LOGS

FILE = 'sittings.json'
# not the config that mmengine dumps, which names paths of the machine: trial.json has all that was asked for
KEPT = ('result.json', 'trial.json', LOGS)


class Sitting:
    """One call of run_study.py, noted in the work folder of the study and, with the logs, where they are kept.

    Args:
        folder: The study's work folder.
        kept: Where to keep logs and settings of finished trainings, or None.
        facts: The machine, and how many trainings run at a time.

    Raises:
        SettingError: ``kept`` holds something else than what was kept of ``folder``, or what is noted cannot be read.
    """

    def __init__(self, folder: Path, kept: Path | None, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.kept = kept
        self._begin = time.monotonic()
        now = datetime.now(timezone.utc).isoformat(timespec='seconds')
        self.record = {'begun': now, 'commit': commit(), **facts, 'seconds': 0, 'trained': []}
        self.before = read_sittings(folder)
        known = {record['begun'] for record in self.before}
        if kept is None or not kept.exists():
            return
        there = {record['begun'] for record in read_sittings(kept)}
        if there - known or (not there and any(kept.iterdir())):
            raise SettingError(
                f'--keep {kept.parent}: {kept} holds trainings that are not those in {folder}, and would be replaced. '
                f'Give another folder, or copy it to {folder} to go on from there.'
            )

    def keep(self, source: Path, place: Path) -> None:
        """Copy the logs and settings of a training that was finished before.

        Args:
            source: Its work folder.
            place: Where it belongs in the folder of the study.
        """
        if self.kept is None:
            return
        for file in (file for pattern in KEPT for file in source.glob(pattern)):
            copy = self.kept / place / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        if self.before:
            write_sittings(self.before, self.kept)

    def add(self, source: Path, place: Path) -> None:
        """Note a training that has just been finished, and keep it.

        Args:
            source: Its work folder.
            place: Where it belongs in the folder of the study.
        """
        self.keep(source, place)
        self.record['trained'].append(str(place))
        self.record['seconds'] = round(time.monotonic() - self._begin)
        for folder in (self.folder, self.kept):
            if folder is not None:
                write_sittings([*self.before, self.record], folder)


def read_sittings(folder: Path) -> list[dict[str, Any]]:
    """Return the sittings that are noted in a folder, none if it has none.

    Raises:
        SettingError: The file is broken.
    """
    file = folder / FILE
    if not file.is_file():
        return []
    try:
        sittings = json.loads(file.read_text())
        if not all(sitting.keys() >= {'begun', 'commit', 'machine', 'seconds', 'trained'} for sitting in sittings):
            raise ValueError('something is missing')
    except (ValueError, AttributeError, TypeError) as error:
        raise SettingError(f'{file} is broken ({error}). Put it back as it was, or move {folder} away.') from error
    return sittings


def write_sittings(sittings: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Note sittings in a folder, which exists."""
    atomic_write(json.dumps(sittings, indent=1) + '\n', folder / FILE)


def commit() -> str:
    """Return the commit of these tools, or that there is none; what has changed since is said by a ``-dirty``."""
    command = ['git', 'describe', '--always', '--dirty', '--exclude=*']
    process = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return process.stdout.strip() or 'no git clone'
