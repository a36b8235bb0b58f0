"""What mmengine wrote of a training into its work folder; it may be unfinished, broken or somebody else's."""

import contextlib
import itertools
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icd_mmrazor.errors import SettingError, contents, listed
from icd_mmrazor.utils.work_dirs import REMEDY, existing_folder

METRIC = 'accuracy/top1'
# what a line has beside its metrics or losses
BESIDE_METRICS = {'step', 'time', 'data_time', 'memory'}
BESIDE_LOSSES = {*BESIDE_METRICS, 'iter'}
MAX_BRACKETS = 20
MAX_STEP = 10**9
LOGS = '*/vis_data/scalars.json'
# what DistillationReportHook writes before them
TEACHER_METRICS = ', validation set: '
LITERAL = r'(-?\d{1,9}|True|False)\b'


@dataclass
class TrainingLog:
    """What one training logged.

    Attributes:
        accuracies: Top-1 accuracy in percent after each validated epoch. Of a training that was resumed, or begun anew
            in the same folder, those that led to its latest state.
        other_metrics: Names of the metrics of those epochs whose validation gave no such accuracy.
        problems: What could not be read, in words; empty for a sound log.
        training: The numbers of each line of the training (losses, ``lr``, ``epoch``) by the iteration after which it
            was logged.
        validations: All metrics of each validation by its epoch, or by its iteration where the training counts those.
    """

    accuracies: dict[int, float] = field(default_factory=dict)
    other_metrics: dict[int, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    training: dict[int, dict[str, float]] = field(default_factory=dict)
    validations: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """The last validated epoch, 0 if there is none."""
        return max(self.accuracies, default=0)

    @property
    def counts_epochs(self) -> bool:
        """Whether the training goes by epochs; else it counts iterations."""
        return not self.training or 'epoch' in self.training[next(reversed(self.training))]

    @property
    def iterations_per_epoch(self) -> int:
        """Iterations of an epoch, as near as the lines tell: the last of an epoch need not have one. At least 1."""
        epochs = [(iteration, numbers['epoch']) for iteration, numbers in self.training.items() if 'epoch' in numbers]
        return max((math.ceil(iteration / epoch) for iteration, epoch in epochs), default=1)


def read_log(folder: Path) -> TrainingLog:
    """Read ``*/vis_data/scalars.json`` of a work folder: JSON lines, one file for each start of the training.

    Args:
        folder: The training's ``work_dir``.

    Returns:
        Its epochs. A line that is cut off or is no JSON object, and an accuracy that is no number from 0 to 100, are
        left out and named as a problem.
    """
    log = TrainingLog()
    for file in sorted(folder.glob(LOGS)):
        name = file.relative_to(folder)
        try:
            lines = file.read_text(errors='replace').splitlines()
        except OSError as error:
            log.problems.append(f'{name} cannot be read ({error.strerror})')
            continue
        unreadable = 0
        for line in lines:
            try:
                _take(line, log)
            except (ValueError, TypeError, KeyError, OverflowError):
                unreadable += 1
        if unreadable:
            log.problems.append(f'{name}: {unreadable} of {len(lines)} lines unreadable or without a valid accuracy')
        elif not lines:
            log.problems.append(f'{name} is empty')
    return log


def _take(line: str, log: TrainingLog) -> None:
    """Add a line of the training or of a validation; raise what reading anything raises if it is not valid."""
    # mmengine's lines are flat. Far nested ones end no parser well: mmrazor lifts Python's limit of recursion
    if line.count('[') + line.count('{') > MAX_BRACKETS:
        raise ValueError
    values = json.loads(line)
    if not isinstance(values, dict):
        raise TypeError
    if 'iter' in values:
        step = _checked(values['iter'])
        if 'epoch' in values:
            _checked(values['epoch'])
        _put(log.training, step, _numbers(values, BESIDE_LOSSES))
        return
    # a hook may add a line; it has no times
    if METRIC not in values and ('data_time' not in values or 'epoch' in values):
        return
    # what step says of a training that counts iterations depends on LoggerHook's log_metric_by_epoch
    step = _checked(values['step']) if log.counts_epochs else next(reversed(log.training))
    _put(log.validations, step, _numbers(values, BESIDE_METRICS))
    if METRIC not in values:
        log.other_metrics[step] = sorted(values.keys() - BESIDE_METRICS)
        return
    _rewind(log.accuracies, step)
    accuracy = values[METRIC]
    # NaN fails this too
    if type(accuracy) not in (int, float) or not 0 <= accuracy <= 100:
        raise ValueError
    log.accuracies[step] = float(accuracy)


def _checked(step: Any) -> int:
    if type(step) is not int or not 1 <= step <= MAX_STEP:
        raise ValueError
    return step


def _numbers(values: dict[str, Any], beside: set[str]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if type(v) in (int, float) and k not in beside}


def _rewind(entries: dict[int, Any], step: int) -> None:
    """Drop what a training that went on from an earlier place, or began anew, replaces."""
    while entries and next(reversed(entries)) >= step:
        entries.popitem()


def _put(entries: dict[int, Any], step: int, entry: Any) -> None:
    _rewind(entries, step)
    entries[step] = entry


def read_training(folder: Path) -> TrainingLog:
    """Read the log of a training that must have one, as :func:`read_log` does.

    Args:
        folder: The training's ``work_dir``.

    Returns:
        The log; it has lines of the training, or validations.

    Raises:
        SettingError: There is no such folder, or no log in it, or nothing in the log; says what was found instead.
    """
    folder = existing_folder(folder)
    if not any(folder.glob(LOGS)):
        below = sorted(
            {str(found.parents[2]) for depth in ('*', '*/*', '*/*/*') for found in folder.glob(f'{depth}/{LOGS}')}
        )
        remedy = f'{REMEDY} Its visualizer needs a LocalVisBackend, as in configs/_base_/runtimes/default.py.'
        if below:
            remedy = f'There are trainings below it; name these: {listed(below)}.'
        raise SettingError(
            f'work folder {folder} has no log: it holds {contents(folder)}. Expected is what mmengine '
            f'writes of a training, {LOGS}. {remedy}'
        )
    log = read_log(folder)
    if not log.training and not log.validations:
        raise SettingError(
            f'work folder {folder}: nothing was logged yet ({"; ".join(log.problems) or "no line of a training"}). '
            'Wait for the first lines; LoggerHook writes one every so many iterations (interval).'
        )
    return log


def read_teacher_metrics(folder: Path) -> dict[str, float]:
    """Return the teacher's metrics on the validation set, as ``DistillationReportHook`` wrote them into the log.

    Args:
        folder: The distillation's ``work_dir``.

    Returns:
        The metrics by name, those of the last start that says them; empty if none does: there is no teacher, or it was
        not evaluated.
    """
    for file in sorted(folder.glob('*/*.log'), reverse=True):
        with contextlib.suppress(OSError):
            found = re.findall(rf'^  teacher  .*{TEACHER_METRICS}(.*)$', file.read_text(errors='replace'), re.MULTILINE)
            if found:
                metrics = (re.fullmatch(r'(\S+) (-?\d{1,9}\.\d\d)', metric) for metric in found[-1].split(', '))
                return {metric[1]: float(metric[2]) for metric in metrics if metric}
    return {}


def read_settings(folder: Path, section: str, name: str) -> list[int]:
    """Return whole numbers, or truth values, from the config that a training was last started with.

    mmengine dumps the config as Python. It is searched as text, for the folder may come from somebody else: nothing in
    it is run or parsed.

    Args:
        folder: The training's ``work_dir``.
        section: A dictionary at the top of the config: ``model``.
        name: A setting in it, at any depth: ``initial_epochs``.

    Returns:
        Its values in their order; empty if no config in the folder has it.
    """
    configs = (sorted(folder.glob(pattern), reverse=True) for pattern in ('*/vis_data/config.py', '*.py'))
    for file in itertools.chain(*configs):
        with contextlib.suppress(OSError):
            # from the section's name to the next name at the beginning of a line
            _, _, rest = f'\n{file.read_text(errors="replace")}'.partition(f'\n{section} = dict(')
            found = re.findall(rf'\b{name}={LITERAL}', re.split(r'\n(?=\w)', rest, maxsplit=1)[0])
            if found:
                return [text == 'True' if text in ('True', 'False') else int(text) for text in found]
    return []


def read_setting(folder: Path, section: str, name: str) -> int | None:
    """Return the first of :func:`read_settings`.

    Args:
        folder: The training's ``work_dir``.
        section: A dictionary at the top of the config: ``train_cfg``.
        name: A setting in it: ``max_epochs``.

    Returns:
        Its value; None if no config in the folder has it.
    """
    return next(iter(read_settings(folder, section, name)), None)


def read_cfg_options(folder: Path) -> list[str] | None:
    """Return with which ``--cfg-options`` tools/benchmarks/run_trials.py trained, as its ``trial.json`` says.

    Args:
        folder: The training's ``work_dir``.

    Returns:
        The options without the seed, empty where there is no such file; None if the file does not say it.
    """
    try:
        text = (folder / 'trial.json').read_text(errors='replace')
    except FileNotFoundError:
        return []
    except OSError:
        return None
    # searched as text, as the configs
    found = re.search(r'"cfg_options": (\[(?:"(?:[^"\\]|\\.)*"(?:, )?)*\])', text)
    try:
        return json.loads(found[1]) if found else None
    except ValueError:
        return None
