"""What mmengine wrote of a training into its work folder; it may be unfinished, broken or somebody else's."""

import contextlib
import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

METRIC = 'accuracy/top1'
# what a line of a validation has beside its metrics
BESIDE_METRICS = {'step', 'time', 'data_time', 'memory'}
MAX_BRACKETS = 20
LITERAL = r'(-?\d{1,9}|True|False)\b'


@dataclass
class TrainingLog:
    """The validated epochs of one training.

    Attributes:
        accuracies: Top-1 accuracy in percent after each validated epoch. Of a training that was resumed, or begun anew
            in the same folder, those that led to its latest state.
        other_metrics: Names of the metrics of those epochs whose validation gave no such accuracy.
        problems: What could not be read, in words; empty for a sound log.
    """

    accuracies: dict[int, float] = field(default_factory=dict)
    other_metrics: dict[int, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """The last validated epoch, 0 if there is none."""
        return max(self.accuracies, default=0)


def read_log(folder: Path) -> TrainingLog:
    """Read ``*/vis_data/scalars.json`` of a work folder: JSON lines, one file for each start of the training.

    Args:
        folder: The training's ``work_dir``.

    Returns:
        Its epochs. A line that is cut off or is no JSON object, and an accuracy that is no number from 0 to 100, are
        left out and named as a problem.
    """
    log = TrainingLog()
    for file in sorted(folder.glob('*/vis_data/scalars.json')):
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
            except (ValueError, TypeError, KeyError):
                unreadable += 1
        if unreadable:
            log.problems.append(f'{name}: {unreadable} of {len(lines)} lines unreadable or without a valid accuracy')
        elif not lines:
            log.problems.append(f'{name} is empty')
    return log


def _take(line: str, log: TrainingLog) -> None:
    """Add a line's validation, if it has one; raise what reading anything raises if it is not valid."""
    # mmengine's lines are flat. Far nested ones end no parser well: mmrazor lifts Python's limit of recursion
    if line.count('[') + line.count('{') > MAX_BRACKETS:
        raise ValueError
    values = json.loads(line)
    if not isinstance(values, dict):
        raise TypeError
    if METRIC not in values:
        # of a training step there is an epoch; what a hook adds has no times
        if 'data_time' in values and 'epoch' not in values:
            log.other_metrics[values['step']] = sorted(values.keys() - BESIDE_METRICS)
        return
    step, accuracy = values['step'], values[METRIC]
    if type(step) is not int or step < 1:
        raise ValueError
    # a training that went on from an earlier epoch, or began anew, replaces what came after it
    for later in [epoch for epoch in log.accuracies if epoch >= step]:
        del log.accuracies[later]
    # NaN fails this too
    if type(accuracy) not in (int, float) or not 0 <= accuracy <= 100:
        raise ValueError
    log.accuracies[step] = float(accuracy)


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
