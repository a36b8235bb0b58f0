"""What the trainings of a benchmark came to: cells of methods, pairs and seeds, read from their folders."""

import csv
import shlex
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.method_names import split_methods
from icd_mmrazor.utils.training_logs import read_cfg_options, read_log, read_setting, read_settings

# of the main stage: AB, FT and FSP train 30 more before it
PUBLISHED_EPOCHS = 240
# the published tables' names of networks
PUBLISHED_NAMES = {'mobilenetv2': 'mobilev2', 'shufflenetv1': 'shufflev1', 'shufflenetv2': 'shufflev2'}
Published = dict[tuple[str, str], float]


@dataclass
class Run:
    """One seed: its accuracy if it has finished, or what it is instead.

    Attributes:
        accuracy: Top-1 accuracy in percent after the last epoch.
        epochs: How many epochs it was trained.
        initial_epochs: How many of them came before the main stage.
        state: ``'finished'``, ``'missing'``, ``'epoch 3/240'`` ...
        remark: What a reader of the number should know.
    """

    accuracy: float | None = None
    epochs: int | None = None
    initial_epochs: int = 0
    state: str = 'finished'
    remark: str = ''


@dataclass
class Cell:
    """A method on a pair with its seeds.

    Attributes:
        methods: ``icd+kd``.
        pair: Its name.
        published: The published accuracy in percent.
        runs: By their seeds.
    """

    methods: str
    pair: str
    published: float | None = None
    runs: dict[int, Run] = field(default_factory=dict)

    @property
    def accuracies(self) -> list[float]:
        """Those of the seeds that have finished."""
        return [run.accuracy for run in self.runs.values() if run.accuracy is not None]

    @property
    def epochs(self) -> set[tuple[int, int]]:
        """All epochs, and those of the initial stage among them."""
        return {(run.epochs, run.initial_epochs) for run in self.runs.values() if run.accuracy is not None}

    @property
    def mean(self) -> float | None:
        """Mean over the finished seeds."""
        return statistics.mean(self.accuracies) if self.accuracies else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the finished seeds, if there are two or more."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def difference(self) -> float | None:
        """From the published value."""
        return None if self.mean is None or self.published is None else self.mean - self.published

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers has to know, the same of several seeds once."""
        seeds = defaultdict(list)
        for seed, run in self.runs.items():
            if run.state != 'finished' or run.remark:
                seeds[f'{run.state} ({run.remark})' if run.remark else run.state].append(seed)
        notes = [f'seed {", ".join(map(str, numbers))}: {state}' for state, numbers in seeds.items()]
        for epochs, initial in sorted(self.epochs):
            if self.published is not None and epochs - initial != PUBLISHED_EPOCHS:
                before = f', {initial} of them before the main stage' if initial else ''
                wanted = f' + {initial}' if initial else ''
                notes.append(
                    f'trained for {epochs} epochs{before}, the published value is of {PUBLISHED_EPOCHS}{wanted}'
                )
        return notes

    @property
    def state(self) -> str:
        """What its seeds are, each once."""
        return ', '.join(dict.fromkeys(run.state for run in self.runs.values()))

    def __str__(self) -> str:
        if self.mean is None:
            text = self.state
        else:
            spread = '' if self.deviation is None else f' ± {self.deviation:.2f}'
            text = f'{self.mean:.2f}{spread} (n={len(self.accuracies)})' + (' †' if self.notes else '')
        if self.published is not None:
            difference = '' if self.difference is None else f', {self.difference:+.2f}'
            text += f' [{self.published:.2f}{difference}]'
        return text


def method_key(methods: str) -> str:
    """Return what ``kd+icd``, ``ICD+KD`` and ``DCD+KD`` have in common.

    Args:
        methods: Names with a plus between.
    """
    return '+'.join(sorted(split_methods(methods.lower())))


def pair_key(pair: str) -> str:
    """Return the published tables' name of a pair on CIFAR-100; others are in no table and stay as they are.

    Args:
        pair: Its name in the benchmark.
    """
    names = pair.removesuffix('_cifar100').split('_')
    return '_'.join(PUBLISHED_NAMES.get(name, name) for name in names) if pair.endswith('_cifar100') else pair


def read_published(file: Path) -> Published:
    """Return the published accuracies by the keys of method and pair.

    Args:
        file: A table like tools/benchmarks/published_cifar100.csv; lines that begin with ``#`` are comments.

    Raises:
        SettingError: It cannot be read as one.
    """
    try:
        lines = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith('#')]
        rows = list(csv.DictReader(lines))
        if not rows:
            raise ValueError('it is empty')
        return {
            (method_key(row['method']), pair): float(value)
            for row in rows
            for pair, value in row.items()
            if pair != 'method' and value
        }
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise SettingError(
            f'--published {file} cannot be read ({error!r}). It is a table with a first line "method,PAIR,..." and a '
            f'line of numbers for each method, like tools/benchmarks/published_cifar100.csv.'
        ) from error


def read_run(folder: Path, seed: int) -> Run:
    """Read one seed's folder; it counts only if the last epoch's accuracy is beyond doubt.

    Args:
        folder: The training's ``work_dir``.
        seed: That it must have been trained with.
    """
    log = read_log(folder)
    epochs, given_seed = read_setting(folder, 'train_cfg', 'max_epochs'), read_setting(folder, 'randomness', 'seed')
    initial_epochs = max(read_settings(folder, 'model', 'initial_epochs'), default=0)
    problems = '; '.join(log.problems)
    if epochs is None or epochs < 1:
        if not log.accuracies and not problems:
            return Run(state='not begun')
        reason = 'no config that says train_cfg.max_epochs'
        return Run(state='broken', remark=f'{problems}; {reason}' if problems else reason)
    if given_seed not in (None, seed):
        return Run(state='broken', remark=f'its config says randomness.seed={given_seed}')
    if log.epoch > epochs:
        return Run(state='broken', remark=f'epoch {log.epoch} in the log, {epochs} epochs in the config')
    deviations = find_deviations(folder)
    if log.epoch == epochs:
        scars = [f'{problems}; epoch {epochs} counts'] if problems else []
        return Run(log.accuracies[epochs], epochs, initial_epochs, remark='; '.join([*scars, *deviations]))
    state = f'epoch {log.epoch}/{epochs}'
    return Run(state=f'broken, {state}' if problems else state, remark='; '.join([*log.problems, *deviations]))


def find_deviations(folder: Path) -> list[str]:
    """Return what makes a run another than the benchmark's, in words.

    Args:
        folder: The training's ``work_dir``.
    """
    deviations = ['the teacher is random'] if any(read_settings(folder, 'model', 'random_teacher')) else []
    options = read_cfg_options(folder)
    if options is None:
        deviations.append('trial.json does not say with which --cfg-options')
    elif options:
        deviations.append(f'with --cfg-options {shlex.join(options)}')
    return deviations


def find_runs(work_dirs: Sequence[Path]) -> dict[tuple[str, str, int], Path]:
    """Return the folders by method, pair and seed.

    Args:
        work_dirs: Folders that hold ``METHODS/PAIR/seed_S``.

    Raises:
        SettingError: There is none, or there are two of a seed.
    """
    runs: dict[tuple[str, str, int], Path] = {}
    for folder in (folder for work_dir in work_dirs for folder in sorted(work_dir.glob('*/*/seed_*'))):
        digits = folder.name.removeprefix('seed_')
        if not digits.isdecimal() or not folder.is_dir():
            continue
        key = folder.parent.parent.name, folder.parent.name, int(digits)
        if key in runs:
            raise SettingError(f'{runs[key]} and {folder} hold the same seed of the same cell. Give one of them.')
        runs[key] = folder
    if not runs:
        raise SettingError(
            f'no runs in {", ".join(map(str, work_dirs))}: no folders METHODS/PAIR/seed_NUMBER. Give the --work-dir of '
            'tools/benchmarks/run_trials.py.'
        )
    return runs


def collect(work_dirs: Sequence[Path], published: Published) -> list[Cell]:
    """Return the cells of all methods and all pairs of which there is a run.

    Args:
        work_dirs: Folders that hold ``METHODS/PAIR/seed_S``.
        published: What :func:`read_published` gives.

    Raises:
        SettingError: There is no run, or there are two of a seed.
    """
    runs = find_runs(work_dirs)
    methods, pairs, seeds = (sorted(set(values)) for values in zip(*runs, strict=True))
    cells = []
    # mixtures after the single methods
    for name in sorted(methods, key=lambda name: (name != 'student', name.count('+'), name)):
        for pair in pairs:
            cell = Cell(name, pair, published.get((method_key(name), pair_key(pair))))
            for seed in seeds:
                folder = runs.get((name, pair, seed))
                cell.runs[seed] = read_run(folder, seed) if folder else Run(state='missing')
            if len(cell.epochs) > 1:
                for run in cell.runs.values():
                    if run.accuracy is not None:
                        remark = f'{run.accuracy:.2f} % after {run.epochs} epochs; other seeds have other epochs'
                        run.remark = f'{remark}; {run.remark}' if run.remark else remark
                        run.accuracy, run.state = None, 'not comparable'
            cells.append(cell)
    return cells


def grid(cells: Sequence[Cell]) -> tuple[list[str], list[str], dict[tuple[str, str], Cell]]:
    """Return methods, pairs, and the cells by both.

    Args:
        cells: What :func:`collect` gives.
    """
    methods, pairs = (list(dict.fromkeys(getattr(cell, name) for cell in cells)) for name in ('methods', 'pair'))
    return methods, pairs, {(cell.methods, cell.pair): cell for cell in cells}
