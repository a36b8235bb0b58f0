"""What mmengine wrote of a training into its work folder; it may be unfinished, broken or somebody else's."""

import contextlib
import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

METRIC = 'accuracy/top1'
MAX_BRACKETS = 20


@dataclass
class TrainingLog:
    """The validated epochs of one training.

    Attributes:
        accuracies: Top-1 accuracy in percent after each validated epoch. Of a training that was resumed, or begun anew
            in the same folder, those that led to its latest state.
        problems: What could not be read, in words; empty for a sound log.
    """

    accuracies: dict[int, float] = field(default_factory=dict)
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
                _take(line, log.accuracies)
            except (ValueError, TypeError, KeyError):
                unreadable += 1
        if unreadable:
            log.problems.append(f'{name}: {unreadable} of {len(lines)} lines unreadable or without a valid accuracy')
        elif not lines:
            log.problems.append(f'{name} is empty')
    return log


def _take(line: str, accuracies: dict[int, float]) -> None:
    """Add a line's accuracy, if it has one; raise what reading anything raises if it is not valid."""
    # mmengine's lines are flat. Far nested ones end no parser well: mmrazor lifts Python's limit of recursion
    if line.count('[') + line.count('{') > MAX_BRACKETS:
        raise ValueError
    values = json.loads(line)
    if not isinstance(values, dict):
        raise TypeError
    if METRIC not in values:
        return
    step, accuracy = values['step'], values[METRIC]
    if type(step) is not int or step < 1:
        raise ValueError
    # a training that went on from an earlier epoch, or began anew, replaces what came after it
    for later in [epoch for epoch in accuracies if epoch >= step]:
        del accuracies[later]
    # NaN fails this too
    if type(accuracy) not in (int, float) or not 0 <= accuracy <= 100:
        raise ValueError
    accuracies[step] = float(accuracy)


def read_setting(folder: Path, section: str, name: str) -> int | None:
    """Return a whole number from the config that a training was last started with.

    mmengine dumps the config as Python. It is searched as text, for the folder may come from somebody else: nothing in
    it is run or parsed.

    Args:
        folder: The training's ``work_dir``.
        section: A dictionary at the top of the config: ``train_cfg``.
        name: A setting in it: ``max_epochs``.

    Returns:
        Its value; None if no config in the folder has it.
    """
    configs = (sorted(folder.glob(pattern), reverse=True) for pattern in ('*/vis_data/config.py', '*.py'))
    for file in itertools.chain(*configs):
        with contextlib.suppress(OSError):
            # from the section's name to the next name at the beginning of a line
            _, _, rest = f'\n{file.read_text(errors="replace")}'.partition(f'\n{section} = dict(')
            found = re.search(rf'\b{name}=(-?\d{{1,9}})\b', re.split(r'\n(?=\w)', rest, maxsplit=1)[0])
            if found:
                return int(found[1])
    return None
