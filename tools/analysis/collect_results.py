#!/usr/bin/env python3
"""Make one table of the benchmark's runs: methods x pairs, mean and standard deviation over the seeds.

Reads WORK_DIR/METHODS/PAIR/seed_S, as tools/benchmarks/run_trials.py leaves them; the last epoch's accuracy counts.
What is missing, unfinished or broken is named and not averaged. Nothing in the folders is executed.
"""

import argparse
import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run as run_tool
from icd_mmrazor.utils.figures import figure_files, new_figure, save_figure, style
from icd_mmrazor.utils.trial_results import Cell, collect, grid, read_published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = Path(__file__).resolve().parents[1] / 'benchmarks' / 'published_cifar100.csv'
LEGEND = (
    'Top-1 accuracy (%) after the last epoch: mean ± sample standard deviation over n seeds '
    '[published value, difference]; † see the notes.'
)


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
        atomic_write(table, args.markdown)
    if args.csv:
        atomic_write(csv_text(cells), args.csv)
    if args.figure:
        save_figure(draw(cells), args.figure, args.force)


if __name__ == '__main__':
    run_tool(main)
