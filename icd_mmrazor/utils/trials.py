"""Many trainings, each a process of its own: several at a time, watched, stopped together, and gone on with."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from icd_mmrazor.utils.errors import SettingError
from icd_mmrazor.utils.training_logs import read_log

POLL_SECONDS = 0.1
# between asking a training to end and making it
GRACE_SECONDS = 10
SHOWN_LINES = 15
# Linux ends the training if this process is killed and cannot do it itself (prctl 1: PR_SET_PDEATHSIG)
DIES_WITH_PARENT = (
    'import ctypes, os, sys\n'
    f'ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})\n'
    'if os.getppid() == int(sys.argv[1]): os.execvp(sys.argv[2], sys.argv[2:])'
)


def write_json(values: Any, path: Path) -> None:
    """Write a JSON file: the new one is there whole, or the old one still is.

    Args:
        values: What ``json.dumps`` takes.
        path: The file; its folder exists.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        temporary.write_text(json.dumps(values))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        """What the training printed."""
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
        self._mend_checkpoints()
        self._first_epoch = read_log(self.folder).epoch
        self._started, self._seen, self.failure = time.monotonic(), None, None
        guard = [sys.executable, '-c', DIES_WITH_PARENT, str(os.getpid())] if sys.platform == 'linux' else []
        with self.log.open('w') as output:
            self._process = subprocess.Popen(
                [*guard, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
                pass_fds=keep_open,
            )

    def _mend_checkpoints(self) -> None:
        """Make ``last_checkpoint`` name one that ``--resume`` can go on from.

        A training that was ended while it validated its last epoch has the checkpoint and not the accuracy; resumed
        there it would have nothing left to do. One that was ended at the wrong moment, or moved, names no file.
        """
        checkpoints = sorted(self.folder.glob('epoch_*.pth'), key=_number)
        if checkpoints and _number(checkpoints[-1]) == self.max_epochs not in read_log(self.folder).accuracies:
            checkpoints.pop().unlink()
        pointer = self.folder / 'last_checkpoint'
        if pointer.is_file() and not Path(pointer.read_text().strip() or '-').is_file():
            if checkpoints:
                pointer.write_text(str(checkpoints[-1]))
            else:
                pointer.unlink()

    def poll(self) -> bool:
        """Return whether the process has ended; if so, its result is written or ``failure`` is set."""
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
        if code == 0:
            reason = f' (it ended without an accuracy of epoch {self.max_epochs})'
        else:
            reason = f' (ended by {signal.Signals(-code).name})' if code < 0 else ''
        end = '\n'.join(self.log.read_text(errors='replace').splitlines()[-SHOWN_LINES:])
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
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, seconds))


def _number(checkpoint: Path) -> int:
    digits = checkpoint.stem.removeprefix('epoch_')
    return int(digits) if digits.isdecimal() else -1


class Progress:
    """Say what is running: every second in a line that is rewritten on a terminal, in new lines elsewhere.

    Args:
        trials: All of them; those with a result count as done.
        slots: How many run at a time.
        seconds: Between two lines where there is no terminal.
        eta: Whether to estimate when all will be done.
        stream: Where to print; standard output by default.
    """

    def __init__(
        self, trials: Sequence[Trial], slots: int, seconds: float = 10, eta: bool = True, stream: IO[str] | None = None
    ) -> None:
        self.trials = trials
        self.slots = slots
        self.eta = eta
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.seconds = 1 if self.terminal else seconds
        self._width = 0
        self._next = time.monotonic() + self.seconds

    def show(self, text: str, end: str = '\n') -> None:
        """Print a line, over the rewritten one if there is one.

        Args:
            text: The line.
            end: Empty for a line that the next one is to replace.
        """
        print(f'\r{text:<{self._width}}' if self.terminal else text, end=end, flush=True, file=self.stream)
        self._width = len(text) if end == '' else 0

    def update(self, running: Sequence[Trial]) -> None:
        """Report, if it is time.

        Args:
            running: The trials that have a process.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.seconds
        text = self.text(running)
        if self.terminal:
            # a line that wraps could not be rewritten
            text = text[: shutil.get_terminal_size().columns - 1]
        self.show(text, end='' if self.terminal else '\n')

    def text(self, running: Sequence[Trial]) -> str:
        """Return the line.

        Args:
            running: The trials that have a process.
        """
        states = []
        for trial in running:
            epoch, accuracy = trial.look()
            state = 'starts' if accuracy is None else f'epoch {epoch}/{trial.max_epochs}, {accuracy:.1f} %'
            states.append(f'{trial.name} {state}')
        head = f'  {sum(trial.result is not None for trial in self.trials)}/{len(self.trials)} done'
        failed = sum(trial.failure is not None for trial in self.trials)
        if failed:
            head += f', {failed} failed'
        left = seconds_left(self.trials, self.slots) if self.eta else None
        if left is not None:
            head += f', ETA {timedelta(seconds=round(left))}'
        return f'{head}; {"; ".join(states)}'


def seconds_left(trials: Sequence[Trial], slots: int) -> float | None:
    """Estimate how long trials still take from the measured pace of those that run or ran.

    Args:
        trials: Finished, running and waiting ones.
        slots: How many run at a time.

    Returns:
        Seconds; None as long as nothing has been measured.
    """
    paces = defaultdict(list)
    for trial in trials:
        if pace := trial.pace():
            paces[trial.kind].append(pace)
    if not paces:
        return None
    mean = statistics.mean(pace for group in paces.values() for pace in group)
    left = [
        trial.seconds_left(trial.pace() or statistics.mean(paces.get(trial.kind, [mean])))
        for trial in trials
        if trial.result is None and trial.failure is None
    ]
    return max(sum(left) / slots, max(left, default=0.0))


def run_trials(
    trials: Sequence[Trial],
    slots: Sequence[Mapping[str, str]],
    progress: Progress,
    keep_going: bool = True,
    keep_open: Sequence[int] = (),
) -> list[Trial]:
    """Run those trials that have no result yet, one in each slot at a time.

    Ctrl-C and SIGTERM end the running ones, which the same call later goes on with.

    Args:
        trials: In the order in which they are started.
        slots: The environment variables of each, for example the GPU.
        progress: Says what happens.
        keep_going: Whether to start further trials after one has failed.
        keep_open: Open files that the trainings inherit.

    Returns:
        The trials that failed.

    Raises:
        SystemExit: A signal stopped the trials.
    """
    waiting = deque(trial for trial in trials if trial.result is None)
    free, running, failed = deque(slots), {}, []
    with _noted_signals() as signals:
        try:
            while not signals and (running or waiting):
                while free and waiting:
                    trial, slot = waiting.popleft(), free.popleft()
                    trial.start(slot, keep_open)
                    running[trial] = slot
                time.sleep(POLL_SECONDS)
                for trial in [trial for trial in running if trial.poll()]:
                    free.append(running.pop(trial))
                    if trial.failure is None:
                        result = trial.result
                        progress.show(f'  {trial.name}: {result["accuracy"]:.1f} % in {result["seconds"]:.0f} s')
                        continue
                    failed.append(trial)
                    if keep_going:
                        progress.show(f'  {trial.name}: failed, see {trial.log}')
                    else:
                        waiting.clear()
                if running:
                    progress.update(list(running))
        finally:
            _stop(list(running))
    if signals:
        progress.show(f'stopped by {signal.Signals(signals[0]).name}; the same command goes on where this one ended')
        sys.exit(128 + signals[0])
    return failed


def _stop(trials: Sequence[Trial]) -> None:
    """End trials with their children, at first politely."""
    for trial in trials:
        trial.stop()
    until = time.monotonic() + GRACE_SECONDS
    for trial in trials:
        trial.wait(until - time.monotonic())
    for trial in trials:
        trial.stop(signal.SIGKILL)
        trial.wait(GRACE_SECONDS)


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop instead of being interrupted by them; one that is ignored stays so."""
    noted: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    with (folder / '.lock').open('a+') as lock:
        until = time.monotonic() + GRACE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip()
                # what a killed runner has left ends in a moment
                if _may_live(owner) or time.monotonic() > until:
                    raise SettingError(
                        f'--work-dir {folder} is in use by another runner ({owner}) or by a training that it left '
                        'behind. Let it end, or give another folder.'
                    ) from None
            time.sleep(POLL_SECONDS)
        lock.truncate(0)
        lock.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        lock.flush()
        yield lock.fileno()


def _may_live(owner: str) -> bool:
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


def number_of_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
