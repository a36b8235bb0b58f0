#!/usr/bin/env python3
"""Make one table of the benchmark's runs: methods x pairs, mean and standard deviation over the seeds.

Reads WORK_DIR/METHODS/PAIR/seed_S, as tools/benchmarks/run_trials.py leaves them; the last epoch's accuracy counts.
What is missing, unfinished or broken is named and not averaged. Nothing in the folders is executed.
"""

import argparse
import csv
import io
import shlex
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from icd_mmrazor.utils.command_line import run as run_tool
from icd_mmrazor.utils.errors import SettingError
from icd_mmrazor.utils.figures import figure_files, new_figure, save_figure, style
from icd_mmrazor.utils.files import check_writable, write_whole
from icd_mmrazor.utils.training_logs import read_cfg_options, read_log, read_setting, read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = Path(__file__).resolve().parents[1] / 'benchmarks' / 'published_cifar100.csv'
# of the main stage: AB, FT and FSP train 30 more before it
PUBLISHED_EPOCHS = 240
# the published tables' names of networks
PUBLISHED_NAMES = {'mobilenetv2': 'mobilev2', 'shufflenetv1': 'shufflev1', 'shufflenetv2': 'shufflev2'}
LEGEND = (
    'Top-1 accuracy (%) after the last epoch: mean ± sample standard deviation over n seeds '
    '[published value, difference]; † see the notes.'
)
Published = dict[tuple[str, str], float]


@dataclass
class Run:
    """One seed: its accuracy if it has finished, or what it is instead.

    ``remark`` says what a reader should know; ``initial_epochs`` of the ``epochs`` are not of the main stage.
    """

    accuracy: float | None = None
    epochs: int | None = None
    initial_epochs: int = 0
    state: str = 'finished'
    remark: str = ''


@dataclass
class Cell:
    """A method on a pair with its seeds."""

    methods: str
    pair: str
    published: float | None = None
    runs: dict[int, Run] = field(default_factory=dict)

    @property
    def accuracies(self) -> list[float]:
        return [run.accuracy for run in self.runs.values() if run.accuracy is not None]

    @property
    def epochs(self) -> set[tuple[int, int]]:
        """All epochs, and those of the initial stage among them."""
        return {(run.epochs, run.initial_epochs) for run in self.runs.values() if run.accuracy is not None}

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.accuracies) if self.accuracies else None

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def difference(self) -> float | None:
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
    """Return what ``kd+icd`` and ``ICD+KD`` have in common."""
    return '+'.join(sorted(methods.lower().split('+')))


def pair_key(pair: str) -> str:
    """Return the published tables' name of a pair on CIFAR-100; others are in no table and stay as they are."""
    names = pair.removesuffix('_cifar100').split('_')
    return '_'.join(PUBLISHED_NAMES.get(name, name) for name in names) if pair.endswith('_cifar100') else pair


def read_published(file: Path) -> Published:
    """Return the published accuracies by the keys of method and pair."""
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
            f'line of numbers for each method, like {PUBLISHED}.'
        ) from error


def read_run(folder: Path, seed: int) -> Run:
    """Read one seed's folder; it counts only if the last epoch's accuracy is beyond doubt."""
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
    """Return what makes a run another than the benchmark's."""
    deviations = ['the teacher is random'] if any(read_settings(folder, 'model', 'random_teacher')) else []
    options = read_cfg_options(folder)
    if options is None:
        deviations.append('trial.json does not say with which --cfg-options')
    elif options:
        deviations.append(f'with --cfg-options {shlex.join(options)}')
    return deviations


def find_runs(work_dirs: Sequence[Path]) -> dict[tuple[str, str, int], Path]:
    """Return the folders by method, pair and seed.

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
    """Return the cells of all methods and all pairs of which there is a run."""
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
    """Return methods, pairs, and the cells by both."""
    methods, pairs = (list(dict.fromkeys(getattr(cell, name) for cell in cells)) for name in ('methods', 'pair'))
    return methods, pairs, {(cell.methods, cell.pair): cell for cell in cells}


def markdown(cells: Sequence[Cell]) -> str:
    methods, pairs, by_name = grid(cells)
    rows = [['', *pairs], *([name, *(str(by_name[name, pair]) for pair in pairs)] for name in methods)]
    # a folder's name may hold anything
    rows = [[' '.join(text.split()).replace('|', '\\|') for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '| ' + ' | '.join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + ' |' for row in rows
    ]
    lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    notes = [f'- {cell.methods} on {cell.pair}: {note}' for cell in cells for note in cell.notes]
    return '\n'.join([*lines, '', LEGEND, *(['', 'Notes:', '', *notes] if notes else [])]) + '\n'


def csv_text(cells: Sequence[Cell]) -> str:
    """Return a line for each cell, empty where there is no value."""
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(['method', 'pair', 'seeds', 'epochs', 'mean', 'std', 'published', 'difference', 'notes'])
    for cell in cells:
        numbers = [cell.mean, cell.deviation, cell.published, cell.difference]
        rounded = ['' if number is None else round(number, 4) for number in numbers]
        epochs = next((epochs for epochs, _ in cell.epochs), '')
        writer.writerow([cell.methods, cell.pair, len(cell.accuracies), epochs, *rounded, '; '.join(cell.notes)])
    return output.getvalue()


def draw(cells: Sequence[Cell]) -> 'Figure':
    """Return a figure: one panel a pair, our means with their deviations, the published values as hollow markers."""
    from matplotlib.lines import Line2D

    methods, pairs, by_name = grid(cells)
    columns = min(4, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, panels = new_figure(rows, columns, panel_size=(3.2, 0.7 + 0.28 * len(methods)), sharey=True)
    size = (1.6 + figure.get_figwidth(), 1.4 + figure.get_figheight())
    panels = panels.flatten()
    for panel, pair in zip(panels, pairs, strict=False):
        panel.set_title(pair, fontsize=9)
        panel.set_yticks(range(len(methods)), methods)
        panel.set_ylim(len(methods) - 0.5, -0.5)
        panel.grid(alpha=0.3)
        panel.margins(x=0.1)
        panel.tick_params(labelbottom=True)
        for place, name in enumerate(methods):
            cell, (colour, shape, _) = by_name[name, pair], style(place)
            if cell.published is not None:
                panel.plot(cell.published, place, shape, markersize=8, markerfacecolor='none', markeredgecolor=colour)
            if cell.mean is not None:
                panel.errorbar(cell.mean, place, xerr=cell.deviation, fmt=shape, color=colour, markersize=5, capsize=3)
            elif cell.published is None:
                panel.text(
                    0.5, place, str(cell), transform=panel.get_yaxis_transform(), ha='center', va='center', size=8
                )
    for panel in panels[len(pairs) :]:
        panel.set_visible(False)
    label = 'top-1 accuracy after the last epoch (%)'
    # a published value alone must not be taken for one of ours
    empty = [f'{cell.methods} on {cell.pair} ({cell.state})' for cell in cells if cell.mean is None]
    noted = [f'{cell.methods} on {cell.pair}' for cell in cells if cell.mean is not None and cell.notes]
    caption = [
        line
        for head, names in (('no value of ours', empty), ("see the table's notes", noted))
        if names
        for line in textwrap.wrap(f'{head}: {"; ".join(names)}', width=round(13 * size[0]))
    ]
    figure.set_size_inches(size[0], size[1] + 0.14 * len(caption))
    figure.supxlabel('\n'.join([label, *caption]), fontsize=8)
    grey = dict(color='grey', linestyle='none', marker='o')
    handles = [Line2D([], [], label='ours: mean and standard deviation over seeds', markersize=5, **grey)]
    if any(cell.published is not None for cell in cells):
        handles.append(Line2D([], [], label='published', markersize=8, markerfacecolor='none', **grey))
    figure.legend(handles=handles, loc='outside upper center', ncols=2, fontsize=8, frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='the --work-dir of run_trials.py')
    parser.add_argument('--published', type=Path, default=PUBLISHED, metavar='CSV', help='default: that of CIFAR-100')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='write the table that is printed')
    parser.add_argument('--csv', type=Path, metavar='FILE', help='write a line for each method and pair')
    parser.add_argument('--figure', type=Path, metavar='FILE', help='draw it, as .png and .svg')
    parser.add_argument('--force', action='store_true', help='replace files that exist')
    args = parser.parse_args(arguments)
    for folder in args.work_dirs:
        if not folder.is_dir():
            raise SettingError(f'{folder}: there is no such folder (working folder: {Path.cwd()}).')
    if args.figure:
        figure_files(args.figure, args.force, '--figure')
    for name in ('markdown', 'csv'):
        if file := getattr(args, name):
            check_writable(file, f'--{name}')
            if file.exists() and not args.force:
                raise SettingError(f'--{name} {file} exists. Name another file, or add --force.')
    cells = collect(args.work_dirs, read_published(args.published))
    table = markdown(cells)
    print(table, end='')
    for file in filter(None, (args.markdown, args.csv, args.figure)):
        file.parent.mkdir(parents=True, exist_ok=True)
    if args.markdown:
        write_whole(table, args.markdown)
    if args.csv:
        write_whole(csv_text(cells), args.csv)
    if args.figure:
        save_figure(draw(cells), args.figure, args.force)


if __name__ == '__main__':
    run_tool(main)
