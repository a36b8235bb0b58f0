"""A training as a process of its own: started, watched, stopped, and gone on with."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from icd_mmrazor.checkpoints.writing import write_json
from icd_mmrazor.utils.training_logs import METRIC, read_log

SHOWN_LINES = 15
# begins the line between two attempts in train.log
SEPARATOR = '===== started again'
# Linux ends the training if this process is killed and cannot do it itself (prctl 1: PR_SET_PDEATHSIG)
DIES_WITH_PARENT = (
    'import ctypes, os, sys\n'
    f'ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})\n'
    'if os.getppid() == int(sys.argv[1]): os.execvp(sys.argv[2], sys.argv[2:])'
)


class Trial:
    """One training in a folder of its own.

    Args:
        name: What messages call it.
        folder: Its work folder. It gets ``train.log`` and, once the training has ended well, ``result.json``.
        command: Starts the training or, where it was interrupted, goes on with it.
        max_epochs: Its number of epochs; the accuracy of the last one is the result.
        kind: Trials of one kind are expected to be equally fast.

    Attributes:
        failure: Why the training failed, with the end of its log; None if it did not.
    """

    def __init__(self, name: str, folder: Path, command: Sequence[object], max_epochs: int, kind: str = '') -> None:
        self.name = name
        self.folder = folder
        self.command = [str(part) for part in command]
        self.max_epochs = max_epochs
        self.kind = kind
        self.failure: str | None = None
        self._process: subprocess.Popen | None = None
        self._started = 0.0
        self._first_epoch = 0
        # the last validated epoch, and when it was noticed
        self._seen: tuple[int, float] | None = None

    @property
    def log(self) -> Path:
        """What the training printed, at each attempt."""
        return self.folder / 'train.log'

    @property
    def result(self) -> dict[str, float] | None:
        """``accuracy``, ``epochs``, ``seconds`` and ``pace`` (seconds an epoch) of a training that has ended well.

        Both times are of the process that ended it, which may have gone on from an earlier one.
        """
        try:
            result = json.loads((self.folder / 'result.json').read_text())
            return result if result['epochs'] == self.max_epochs else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def start(self, environment: Mapping[str, str], keep_open: Sequence[int] = ()) -> None:
        """Start the process, which leads a process group of its own.

        Args:
            environment: Set in addition to this process's.
            keep_open: Open files that it inherits.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process, self._seen, self.failure = None, None, None
        self._first_epoch = read_log(self.folder).epoch
        self._started = time.monotonic()
        guard = [sys.executable, '-c', DIES_WITH_PARENT, str(os.getpid())] if sys.platform == 'linux' else []
        with self.log.open('a') as output:
            if output.tell():
                output.write(f'\n{SEPARATOR} {datetime.now():%Y-%m-%d %H:%M:%S}\n')
            output.flush()
            self._process = subprocess.Popen(
                [*guard, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
                pass_fds=keep_open,
            )

    def poll(self) -> bool:
        """Return whether the process has ended; if so, its result is written or ``failure`` is set."""
        if self._process is None:
            return False
        code = self._process.poll()
        if code is None:
            return False
        log = read_log(self.folder)
        accuracy = log.accuracies.get(self.max_epochs)
        if code == 0 and accuracy is not None:
            seconds = time.monotonic() - self._started
            epochs = self.max_epochs - self._first_epoch
            pace = seconds / epochs if epochs else None
            result = {'accuracy': accuracy, 'epochs': self.max_epochs, 'seconds': seconds, 'pace': pace}
            write_json(result, self.folder / 'result.json')
            return True
        if code:
            reason = f' (ended by {signal.Signals(-code).name})' if code < 0 else ''
        elif found := log.other_metrics.get(self.max_epochs):
            reason = (
                f': its validation gives {", ".join(found)}, not {METRIC}. A trial needs that one '
                "(val_evaluator=dict(type='Accuracy', topk=(1, 5)))"
            )
        else:
            reason = f' (it ended without an accuracy of epoch {self.max_epochs})'
        attempt = self.log.read_text(errors='replace').rpartition(SEPARATOR)[2]
        end = '\n'.join(attempt.splitlines()[-SHOWN_LINES:])
        self.failure = f'{self.name}: the training failed{reason}. The end of {self.log}:\n{end}'
        return True

    def look(self) -> tuple[int, float | None]:
        """Return the last validated epoch, 0 if there is none, and its accuracy."""
        log = read_log(self.folder)
        if log.epoch > max(self._first_epoch, self._seen[0] if self._seen else 0):
            self._seen = log.epoch, time.monotonic()
        return log.epoch, log.accuracies.get(log.epoch)

    def pace(self) -> float | None:
        """Return measured seconds an epoch: of the running process, or of one that has ended well."""
        if self._seen:
            return (self._seen[1] - self._started) / (self._seen[0] - self._first_epoch)
        result = self.result
        return result.get('pace') if result else None

    def seconds_left(self, pace: float) -> float:
        """Return about how long the trial still takes.

        Args:
            pace: Seconds an epoch.
        """
        epoch, since = self._seen or (read_log(self.folder).epoch, self._started or time.monotonic())
        return max(0.0, pace * (self.max_epochs - epoch) - (time.monotonic() - since if self._process else 0.0))

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Send a signal to the process and its children.

        Args:
            signal_number: Which.
        """
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal_number)

    def wait(self, seconds: float) -> None:
        """Wait until the process has ended, or so long.

        Args:
            seconds: How long.
        """
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, seconds))
