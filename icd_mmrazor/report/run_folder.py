"""The work folder of a training: config, numbers, log, checkpoints."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mmengine.config import Config

from icd_mmrazor.checkpoints.resuming import latest_valid_checkpoint
from icd_mmrazor.configuration.stored import read_config_text
from icd_mmrazor.configuration.type_names import by_names
from icd_mmrazor.errors import SettingError

STAMP = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ')
ENDED = re.compile(r'Training ended at \w+ (\d+)/(\d+) after (?:(\d+) days?, )?(\d+):(\d\d):(\d\d)')
GRADIENTS = re.compile(r'(gradient at the .*in the first batch: .*)')
MACHINE = ('Python', 'PyTorch', 'TorchVision', 'MMEngine', 'CUDA available', 'GPU number', 'numpy_random_seed')
NO_METRICS = ('step', 'time', 'data_time')
USUAL_METRIC = 'accuracy/top1'


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A training.

    Args:
        folder: Its work folder.
        cfg: Its config, read as data.
        training: The logged rows of the training, in the order of their ``step``, an iteration.
        validations: The rows of the validations; their ``step`` is an epoch, or an iteration if the run counts them.
        described: The distillation in words, from the log: ``'teacher'``, ``'student'``, ``'loss'``, ...
        machine: Versions and hardware, as far as the log has them.
        seconds: How long it took, all its starts together; None if that is unknown.
        reached: The last epoch (or iteration) that was validated or logged; None if there is none.
        ended: Whether the log says that the training came to its end.
    """

    folder: Path
    cfg: Config
    training: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    described: dict[str, list[str]]
    machine: dict[str, str]
    seconds: float | None
    reached: int | None
    ended: bool

    @property
    def seed(self) -> str | None:
        """The seed of its random numbers, also if none was set; None if the log does not say."""
        return self.machine.get('numpy_random_seed')

    @property
    def by_epoch(self) -> bool:
        """Whether validations are counted in epochs."""
        train_cfg = self.cfg.get('train_cfg') or {}
        return 'IterBased' not in str(train_cfg.get('type')) and 'max_iters' not in train_cfg

    @property
    def unit(self) -> str:
        """The unit of steps: ``'epoch'`` or ``'iteration'``."""
        return 'epoch' if self.by_epoch else 'iteration'

    @property
    def planned(self) -> int | None:
        """The number of epochs, or of iterations, that were to be trained."""
        return (self.cfg.get('train_cfg') or {}).get('max_epochs' if self.by_epoch else 'max_iters')

    @property
    def metric(self) -> str | None:
        """The metric to show: the one that ``save_best`` names, else top-1 accuracy, else the first; None without."""
        names = list(dict.fromkeys(name for row in self.validations for name in row if name not in NO_METRICS))
        chosen = ((self.cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
        preferred = [*([chosen] if isinstance(chosen, str) else chosen or ()), USUAL_METRIC]
        return next((name for name in [*preferred, *names] if name in names), None)

    def metric_at(self, step: int | None) -> float | None:
        """Return the metric after an epoch (or iteration); None if that was not validated."""
        found = [row[self.metric] for row in self.validations if row.get('step') == step and self.metric in row]
        return found[-1] if found else None

    def metric_of_teacher(self) -> float | None:
        """Return the teacher's metric on the validation set, as the log has it, with two digits."""
        text = '\n'.join(self.described.get('teacher', ()))
        found = re.search(rf'[:,] {re.escape(self.metric or "")} (-?[\d.]+)(?:,|$)', text, re.MULTILINE)
        return float(found[1]) if found else None

    def checkpoint(self) -> Path | None:
        """Return the student's best checkpoint, else the last one, else the run's own; None if there is none."""
        exported = [self.folder / f'student_{name}.pth' for name in ('best', 'last')]
        found = [file for file in exported if file.is_file()] or by_age(self.folder.glob('best_*.pth'))[-1:]
        if found:
            return found[0]
        latest = latest_valid_checkpoint(self.folder)[0]
        return Path(latest) if latest else None


def read_run(folder: Path) -> RunFolder:
    """Read the work folder of a training; nothing in it is executed.

    Raises:
        SettingError: The folder has no config of a training.
    """
    cfg = stored_config(folder)
    training: list[dict] = []
    validations: list[dict] = []
    logs: list[str] = []
    for start in sorted({file.parent for file in folder.glob('*/*.log')} | {*_logged(folder)}):
        rows = list(logged_rows(start / 'vis_data' / 'scalars.json'))
        log = '\n'.join(file.read_text(errors='replace') for file in sorted(start.glob('*.log')))
        trained = [row for row in rows if 'loss' in row]
        if not trained and logs:
            continue  # it stopped before it logged anything
        # a resumed training repeats what followed its checkpoint; one that started again repeats everything
        training = _before(training, trained) + trained
        validated = [row for row in rows if 'loss' not in row]
        repeated = validated if len(training) > len(trained) else validated or [{'step': 0}]
        validations = _before(validations, repeated) + validated
        logs = [*logs, log] if len(training) > len(trained) else [log]
    steps = [row['step'] for row in validations] + [row['epoch'] for row in training if 'epoch' in row]
    ends = [ENDED.search(log) for log in logs]
    return RunFolder(
        folder=folder,
        cfg=cfg,
        training=training,
        validations=validations,
        described=_described(logs),
        machine=_machine(logs),
        seconds=_seconds(logs, ends),
        reached=max(steps, default=None),
        ended=bool(ends and ends[-1] and ends[-1][1] == ends[-1][2]),
    )


def stored_config(folder: Path) -> Config:
    """Read the config of a folder's latest training as data; it is not executed.

    A start that logged nothing, such as a test, counts only if there is no other.

    Raises:
        SettingError: The folder has none.
    """
    dumped = sorted(folder.glob('*/vis_data/config.py'))
    logged = [file for file in dumped if file.with_name('scalars.json').exists()]
    # mmengine always writes this one; the others are those of its visualizer
    at_top = by_age(file for file in folder.glob('*.py') if file.name != 'student.py')
    found = logged or dumped or at_top
    if not found:
        raise SettingError(f'work folder {folder} has no config of a training. Name a --work-dir of tools/train.py.')
    return by_names(read_config_text(found[-1].read_text(errors='replace'), f'config {found[-1]}'))


def by_age(files: Iterable[Path]) -> list[Path]:
    """Sort files by the time they were changed, the newest last."""
    return sorted(files, key=lambda file: file.stat().st_mtime)


def _logged(folder: Path) -> list[Path]:
    return [file.parents[1] for file in folder.glob('*/vis_data/scalars.json')]


def logged_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of numbers in a ``scalars.json``; one that a kill has cut off is left out."""
    for line in file.read_text(errors='replace').splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get('step'), int):
            yield row


def _before(rows: Sequence[dict], others: Sequence[dict]) -> list[dict]:
    first = min((row['step'] for row in others), default=math.inf)
    return [row for row in rows if row['step'] < first]


def _described(logs: Sequence[str]) -> dict[str, list[str]]:
    """Return the lines of the report at the start, by their first word; those of the last start that has one."""
    described: dict[str, list[str]] = {}
    for log in logs:
        block = re.search(r'What is being distilled:\n((?:  .*\n?)+)', log)
        name = ''
        for line in block[1].splitlines() if block else ():
            if found := re.match(r'  (teacher \d+|\w[\w ]*?)(?:  +|: | = )(.*)', line):
                name = found[1]
                described[name] = []
            text = found[2] if found else line.strip()
            if name:
                described[name].append(text.removeprefix('+ '))
        if found := GRADIENTS.search(log):
            described['gradients'] = [found[1]]
    return described


def _machine(logs: Sequence[str]) -> dict[str, str]:
    machine: dict[str, str] = {}
    for line in logs[-1].splitlines() if logs else ():
        if found := re.match(r' {4}([\w ,]+): (.+)', line):
            name, value = found[1], found[2]
            if name in MACHINE or name.startswith('GPU '):
                machine.setdefault(name, value.partition(' (')[0])
    # mmengine logs the number of processes by this name, also on a CPU
    processes, cuda = machine.pop('GPU number', None), machine.pop('CUDA available', None)
    if cuda == 'False':
        machine['GPU'] = 'none'
    if processes not in (None, '1'):
        machine['processes'] = processes
    return machine


def _seconds(logs: Sequence[str], ends: Sequence[re.Match | None]) -> float | None:
    total = timedelta()
    for log, end in zip(logs, ends, strict=True):
        if end:
            total += timedelta(days=int(end[3] or 0), hours=int(end[4]), minutes=int(end[5]), seconds=int(end[6]))
            continue
        stamps = [found[1] for line in log.splitlines() if (found := STAMP.match(line))]
        if stamps:
            first, last = (datetime.strptime(stamp, '%Y/%m/%d %H:%M:%S') for stamp in (stamps[0], stamps[-1]))
            total += last - first
    return total.total_seconds() if logs else None
