"""Trainings in their own processes, several at a time, resumable."""

import contextlib
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import mmengine
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from icd_mmrazor.checkpoints.writing import write_json
from icd_mmrazor.errors import SettingError

METRIC = 'accuracy/top1'
LOGS = '*/vis_data/scalars.json'
SHOWN_LINES = 15
# between asking a training to end and killing it
GRACE_SECONDS = 10
# the kernel ends a training whose runner was killed (prctl 1 is PR_SET_PDEATHSIG)
DIE_WITH_RUNNER = (
    'import ctypes, os, sys\n'
    f'ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})\n'
    'if os.getppid() == int(sys.argv[1]): os.execvp(sys.argv[2], sys.argv[2:])'
)


@dataclass(eq=False)
class Training:
    """A training in its own folder, which gets ``train.log`` and, at the end, ``result.json``."""

    name: str
    folder: Path
    command: Sequence[object]  # starts the training, or resumes it
    epochs: int  # the accuracy after the last one is the result
    facts: dict[str, Any] = field(default_factory=dict)  # for the result, in addition to the accuracy
    failure: str = ''  # why it failed, with the end of its log
    _process: subprocess.Popen | None = None
    _stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of ``result.json`` if the training has finished, else None."""
        try:
            result = json.loads((self.folder / 'result.json').read_text())
            return result if result['epochs'] == self.epochs else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def run(self, environment: Mapping[str, str]) -> None:
        """Train with these variables in addition to those of this process; write the result or set ``failure``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        resumed, log = any(self.folder.glob(LOGS)), self.folder / 'train.log'
        guard = [sys.executable, '-c', DIE_WITH_RUNNER, os.getpid()]
        self.failure, started = '', time.monotonic()
        with log.open('a') as output:
            begin = output.tell()
            with self._lock:
                if self._stopped:
                    return
                self._process = subprocess.Popen(
                    [str(word) for word in (*guard, *self.command)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
            code = self._process.wait()
        accuracy = accuracies(self.folder).get(self.epochs)
        if code == 0 and accuracy is not None:
            seconds = round(time.monotonic() - started, 1)
            ended = datetime.now(timezone.utc).isoformat(timespec='seconds')
            result = dict(accuracy=accuracy, epochs=self.epochs, seconds=seconds, resumed=resumed, ended=ended)
            write_json({**self.facts, **result}, self.folder / 'result.json')
            return
        reason = f'with exit status {code}' if code else f'without {METRIC} of epoch {self.epochs}'
        end = log.read_bytes()[begin:].decode(errors='replace').splitlines()[-SHOWN_LINES:]
        self.failure = '\n'.join([f'{self.name}: the training ended {reason}. The end of {log}:', *end])

    def stop(self, number: int) -> None:
        """Send a signal to the training and its child processes, and keep it from starting."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)


def accuracies(folder: Path) -> dict[int, float]:
    """Read the accuracy after each validated epoch from mmengine's logs; of a resumed training the latest counts."""
    found = {}
    for file in sorted(folder.glob(LOGS)):
        for line in file.read_text(errors='replace').splitlines():
            with contextlib.suppress(ValueError):  # a line that was cut off by a kill
                values = json.loads(line)
                if METRIC in values:
                    found[values['step']] = values[METRIC]
    return found


def run_all(trainings: Sequence[Training], slots: Sequence[Mapping[str, str]]) -> list[Training]:
    """Run the trainings that have not finished, in their order, one at a time in each slot; return the failed ones.

    A slot is the environment variables of a training, for example its GPU.
    """
    waiting = [training for training in trainings if training.result is None]
    free: queue.SimpleQueue = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)

    def run(training: Training) -> None:
        slot = free.get()
        try:
            training.run(slot)
        finally:
            free.put(slot)

    failed = []
    with ThreadPoolExecutor(len(slots)) as pool:
        futures = {pool.submit(run, training): training for training in waiting}
        try:
            # a bar with the time left on a terminal; elsewhere the lines alone
            for future in tqdm(as_completed(futures), total=len(waiting), unit='training', disable=None):
                future.result()
                training = futures[future]
                if training.failure:
                    failed.append(training)
                    tqdm.write(f'  {training.name}: failed, see {training.folder / "train.log"}')
                else:
                    result = training.result
                    tqdm.write(f'  {training.name}: {result["accuracy"]:.2f} % in {result["seconds"]:.0f} s')
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for training in waiting:
                training.stop(signal.SIGTERM)
            until = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < until and not all(future.done() for future in futures):
                time.sleep(0.1)
            for training in waiting:
                training.stop(signal.SIGKILL)
            raise
    return failed


@contextlib.contextmanager
def locked(folder: Path):
    """Keep other runners out of a folder, which is created if necessary, by a file ``.lock``."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / '.lock', timeout=0):
            yield
    except Timeout:
        raise SettingError(f'{folder} is in use by another runner. Let it finish, or give another folder.') from None


def machine() -> dict[str, Any]:
    """Describe what the time of a training depends on: processor, GPU and versions."""
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    gpu = dict(gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda) if torch.cuda.is_available() else {}
    return dict(
        processor=names[0] if names else platform.processor() or platform.machine(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        cores=os.cpu_count(),
        python=platform.python_version(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        **gpu,
    )
