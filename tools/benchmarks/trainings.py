"""Trainings in their own processes, several at a time, resumable."""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from icd_mmrazor.checkpoints.writing import write_json
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.signals import Stopped
from icd_mmrazor.machine import cores, processor
from icd_mmrazor.report.run_folder import logged_rows
from icd_mmrazor.workflow.lock import WorkFolderLock

import mmengine
import torch
from mmengine.config import Config
from tqdm import tqdm

TRAIN = Path(__file__).resolve().parents[1] / 'train.py'
METRIC = 'accuracy/top1'
# how many outputs of the teacher a training with a teacher cache used, and on how many images the teacher ran
COUNTS = ('teacher_asked', 'teacher_images')
LOGS = '*/vis_data/scalars.json'
SHOWN_LINES = 15
# between asking a training to end and killing it; Slurm waits as long
GRACE_SECONDS = 30
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
        try:
            with WorkFolderLock(self.folder):
                if self.result is None:  # else another command has just finished it
                    self.train(environment)
        except SettingError as error:
            self.failure = f'{self.name}: {error}'

    def in_use(self) -> str | None:
        """Return why another command keeps this one from the folder, which must exist, or None."""
        try:
            with WorkFolderLock(self.folder):
                return None
        except SettingError as error:
            return str(error)

    def train(self, environment: Mapping[str, str]) -> None:
        """Do what :meth:`run` says, in a folder that is locked."""
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
        if code in (-signal.SIGUSR1, 128 + signal.SIGUSR1):  # Slurm's warning, which it may send to all processes
            raise Stopped(signal.SIGUSR1)
        # mmengine's logs of all starts; the latest counts
        rows = [row for file in sorted(self.folder.glob(LOGS)) for row in logged_rows(file)]
        accuracy = {row['step']: row[METRIC] for row in rows if METRIC in row}.get(self.epochs)
        counts = {name: row[name] for row in rows for name in COUNTS if name in row}
        if code == 0 and accuracy is not None:
            seconds = round(time.monotonic() - started, 1)
            ended = datetime.now(timezone.utc).isoformat(timespec='seconds')
            result = dict(accuracy=accuracy, epochs=self.epochs, seconds=seconds, resumed=resumed, ended=ended)
            write_json({**self.facts, **result, **counts}, self.folder / 'result.json')
            return
        reason = f'with exit status {code}' if code else f'without {METRIC} of epoch {self.epochs}'
        end = log.read_bytes()[begin:].decode(errors='replace').splitlines()[-SHOWN_LINES:]
        self.failure = '\n'.join([f'{self.name}: the training ended {reason}. The end of {log}:', *end])

    def stop(self, number: int) -> None:
        """Send a signal to the training and its child processes, and keep it from starting."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)


class ConfigTraining(Training):
    """A training of a config file by tools/train.py, whose last checkpoint is part of the result."""

    def __init__(self, name: str, config: Path, folder: Path, options: Mapping[str, object], **facts: Any) -> None:
        epochs = options.get('train_cfg.max_epochs') or Config.fromfile(config).train_cfg.max_epochs
        command = [sys.executable, TRAIN, config, '--work-dir', folder, '--resume']
        command += ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
        super().__init__(name, folder, command, epochs, facts)
        self.config, self.checkpoint = config, folder / f'epoch_{epochs}.pth'

    @property
    def result(self) -> dict[str, Any] | None:
        return super().result if self.checkpoint.is_file() else None


def run_all(trainings: Sequence[Training], slots: Sequence[Mapping[str, str]]) -> None:
    """Run the trainings that have not finished, in their order, one at a time in each of the :func:`slots_for` them."""
    waiting = [training for training in trainings if training.result is None]
    free = [*slots]  # never empty when a thread takes one: there are as many threads

    def run(training: Training) -> None:
        slot = free.pop()
        try:
            training.run(slot)
        finally:
            free.append(slot)

    with ThreadPoolExecutor(len(slots)) as pool:
        futures = {pool.submit(run, training): training for training in waiting}
        try:
            # a bar with the time left on a terminal; elsewhere the lines alone
            for future in tqdm(as_completed(futures), total=len(waiting), unit='training', disable=None):
                future.result()
                training = futures[future]
                if training.failure:
                    tqdm.write(f'  {training.name}: failed, see {training.folder / "train.log"}')
                else:
                    result = training.result
                    tqdm.write(f'  {training.name}: {result["accuracy"]:.2f} % in {result["seconds"]:.0f} s')
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for training in waiting:
                training.stop(signal.SIGTERM)
            wait([future for future in futures if not future.cancelled()], timeout=GRACE_SECONDS)
            for training in waiting:
                training.stop(signal.SIGKILL)
            raise


def check_failures(trainings: Sequence[Training]) -> None:
    """Raise what happened to the trainings that failed, if any did."""
    if failed := [training.failure for training in trainings if training.failure]:
        count = f'{len(failed)} of {len(trainings)} trainings failed; the same command tries them again.'
        raise UserError('\n\n'.join([count, *failed]))


def slots_for(
    gpus: str | None, jobs: int | None, processes: int = 1, available: int | None = None
) -> list[dict[str, str]]:
    """Return the environment variables of each training that runs at the same time.

    One runs on each of the GPUs, whose numbers commas separate, or some ``jobs`` share the cores, by default up to 4.
    Of GPUs, those of this machine are ``available`` by default.
    """
    if jobs is not None and gpus:
        raise SettingError(f'--jobs {jobs} is for the CPU only, without --gpus.')
    total = cores()
    if gpus is None:
        jobs = jobs or min(4, max(1, total // processes))
        return [{'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': str(max(1, total // (jobs * processes)))}] * jobs
    numbers, available = gpus.split(','), torch.cuda.device_count() if available is None else available
    wrong = [number for number in numbers if not number.isdecimal() or int(number) >= available]
    if wrong or len({int(number) for number in numbers}) < len(numbers):
        found = f'0 to {available - 1}' if available else 'none'
        raise SettingError(f'--gpus {gpus}: give different numbers, separated by commas. GPUs found: {found}.')
    if len(numbers) % processes:
        raise SettingError(f'--gpus {gpus}: trainings in {processes} processes need {processes} GPUs each.')
    # the numbers count the GPUs that this process sees
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    names = visible.split(',') if visible else [str(number) for number in range(available)]
    used, threads = [names[int(number)] for number in numbers], str(max(1, total // len(numbers)))
    groups = [','.join(used[first : first + processes]) for first in range(0, len(used), processes)]
    return [{'CUDA_VISIBLE_DEVICES': group, 'OMP_NUM_THREADS': threads} for group in groups]


def machine() -> dict[str, Any]:
    """Describe what the time of a training depends on: processor, GPU and versions."""
    gpu = dict(gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda) if torch.cuda.is_available() else {}
    versions = dict(python=platform.python_version(), torch=torch.__version__, mmengine=mmengine.__version__)
    cpu = dict(processor=processor(), instructions=torch.backends.cpu.get_cpu_capability(), cores=os.cpu_count())
    return {**cpu, **versions, **gpu}
