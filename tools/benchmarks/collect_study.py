#!/usr/bin/env python3
"""Write the tables and figures of studies from what run_study.py kept.

    collect_study.py docs/results --pages docs/results.md README.md --figures docs/images

In a page, what stands between the lines "<!-- STUDY: PART -->" and "<!-- end -->" is replaced. The PART is "table" (of
the methods in the published setting), "summary" (its accuracies), the name of an axis of the study, "sittings" (dates,
machines, times), or "published" (the published table of CIFAR-100).
"""

import argparse
import json
import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sittings import read_sittings
from studies import PUBLISHED, STUDIES, Axis, Study, teacher_of

from icd_mmrazor import benchmark
from icd_mmrazor.utils.command_line import run
from icd_mmrazor.utils.errors import SettingError
from icd_mmrazor.utils.figures import add_legend, figure_files, new_figure, save_figure, style
from icd_mmrazor.utils.files import check_writable, write_whole
from icd_mmrazor.utils.training_logs import read_log
from icd_mmrazor.utils.trial_results import Cell, collect, method_key, pair_key, read_published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PUBLISHED_TABLE = Path(__file__).with_name('published_cifar100.csv')
STUDENT = benchmark.STUDENT_ALONE
BEGIN = r'<!-- ([\w-]+): ([\w-]+) -->\n'
# up to its own end: without one nothing of the page is to be lost
BLOCK = re.compile(rf'({BEGIN})(?:(?!<!-- ).)*(<!-- end -->)', re.DOTALL)
NOT_RUN = 'not run'
# what is being shown, among the others
HIGHLIGHTED, PLAIN = style(1).color, style(0).color


class Results:
    """What was kept of a study.

    Args:
        study: What was asked for.
        folder: What run_study.py kept of it; it may not be there.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        self.study = study
        self.folder = folder
        self.cells: dict[tuple[str, str, str], Cell] = {}
        for point in study.points:
            if any((folder / point).glob('*/*/seed_*')):
                for cell in collect([folder / point], {}):
                    self.cells[point, cell.methods, cell.pair] = cell

    def cell(self, point: str, methods: str, pair: str) -> Cell:
        """Return a cell, without runs if there are none."""
        return self.cells.get((point, methods, pair), Cell(methods, pair))

    def teacher(self, pair: str) -> float | None:
        """Return the accuracy of a pair's teacher."""
        accuracies = read_log(self.folder / 'teachers' / teacher_of(pair)).accuracies
        return accuracies[max(accuracies)] if accuracies else None

    def minutes(self, point: str, methods: str, pair: str) -> float | None:
        """Return how long a training of a cell took, the mean over its seeds, without those that were resumed."""
        files = (self.folder / point / methods / pair).glob('seed_*/result.json')
        results = [json.loads(file.read_text()) for file in files]
        # of a training that was resumed, the time is that of its last process alone
        seconds = [
            result['seconds']
            for result in results
            if result['pace'] and math.isclose(result['pace'] * result['epochs'], result['seconds'])
        ]
        return statistics.mean(seconds) / 60 if seconds else None

    def has(self, axis: Axis) -> bool:
        """Return whether there is a number on an axis."""
        return any(cell.mean is not None for (point, _, _), cell in self.cells.items() if point in axis.values.values())


def in_words(name: str) -> str:
    """Return how a table calls methods, or a pair."""
    if name == STUDENT:
        return 'student alone'
    networks = name.split('_')
    return ' → '.join(networks[:2]) if len(networks) > 1 else name.upper().replace('FITNET', 'FitNet')


def accuracy(cell: Cell, seeds: Sequence[int]) -> str:
    """Return mean and spread, with the seeds where they are not the study's, or what there is instead."""
    if cell.mean is None:
        return NOT_RUN if cell.state in ('', 'missing') else cell.state
    spread = '' if cell.deviation is None else f' ± {cell.deviation:.2f}'
    finished = [seed for seed, run in cell.runs.items() if run.accuracy is not None]
    others = '' if finished == sorted(seeds) else f' (seed{"s" * (len(finished) > 1)} {", ".join(map(str, finished))})'
    return f'{cell.mean:.2f}{spread}{others}'


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table of Markdown, the first one as its head, all but the first column to the right."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([lines[0], '|---' + '|---:' * (len(rows[0]) - 1) + '|', *lines[1:]])


def methods_table(results: Results) -> str:
    """Return accuracy, difference from the student alone, and minutes of each method on each pair."""
    study = results.study
    head = ['']
    for pair in study.pairs:
        head += [f'{in_words(pair)}, top-1 (%)', 'over the student alone', 'minutes']
    rows = [head, ['teacher']]
    for pair in study.pairs:
        found = results.teacher(pair)
        rows[-1] += [NOT_RUN if found is None else f'{found:.2f}', '', '']
    for methods in study.points[PUBLISHED].methods:
        row = [in_words(methods)]
        for pair in study.pairs:
            cell, alone = results.cell(PUBLISHED, methods, pair), results.cell(PUBLISHED, STUDENT, pair)
            known = None not in (cell.mean, alone.mean) and methods != STUDENT
            minutes = results.minutes(PUBLISHED, methods, pair)
            row += [
                accuracy(cell, study.seeds),
                f'{cell.mean - alone.mean:+.2f}' if known else '',
                '' if minutes is None else f'{minutes:.1f}',
            ]
        rows.append(row)
    return table_of(rows)


def summary_table(results: Results) -> str:
    """Return the accuracies alone."""
    study = results.study
    rows = [['top-1 accuracy (%)', *map(in_words, study.pairs)], ['teacher']]
    for pair in study.pairs:
        found = results.teacher(pair)
        rows[-1].append(NOT_RUN if found is None else f'{found:.2f}')
    for methods in study.points[PUBLISHED].methods:
        cells = (results.cell(PUBLISHED, methods, pair) for pair in study.pairs)
        rows.append([in_words(methods), *(accuracy(cell, study.seeds) for cell in cells)])
    return table_of(rows)


def axis_table(results: Results, axis: Axis) -> str:
    """Return the accuracy at each point of an axis, and that of the student alone."""
    (pair,), seeds = results.study.pairs, results.study.seeds
    methods = methods_on(results.study, axis)
    rows = [[axis.title, *(f'{in_words(name)}, top-1 (%)' for name in methods)]]
    for value, point in axis.values.items():
        name = ' '.join(value.split()) + (' (published)' if point == PUBLISHED else '')
        rows.append([name, *(accuracy(results.cell(point, method, pair), seeds) for method in methods)])
    if STUDENT not in methods:
        rows.append([in_words(STUDENT), accuracy(results.cell(PUBLISHED, STUDENT, pair), seeds)])
    return table_of(rows)


def methods_on(study: Study, axis: Axis) -> list[str]:
    """Return the methods that all points of an axis have."""
    first, *others = (study.points[point].methods for point in axis.values.values())
    return [method for method in first if all(method in other for other in others)]


def sittings_table(results: Results) -> str:
    """Return when and where the trainings ran, and how long."""
    rows = [['begun (UTC)', 'commit', 'machine', 'at a time', 'trainings', 'minutes until the last one ended']]
    for sitting in read_sittings(results.folder):
        machine, gpus = sitting['machine'], sitting['gpus']
        processor = f'{sitting["cores used"]} of {machine["cores"]} cores of {machine["processor"]}'
        processor += f' ({machine["instructions"]})'
        device = f'GPUs {gpus}: {machine["gpu"]}, CUDA {machine["cuda"]}; {processor}' if gpus else processor
        rows.append(
            [
                sitting['begun'][:16].replace('T', ' '),
                f'`{sitting["commit"]}`',
                f'{device}, Python {machine["python"]}, torch {machine["torch"]}',
                str(sitting['at a time']),
                str(len(sitting['trained'])),
                f'{sitting["seconds"] / 60:.0f}',
            ]
        )
    return table_of(rows) if len(rows) > 1 else f'{NOT_RUN.capitalize()}.'


def published_table(study: Study) -> str:
    """Return the published accuracies of a study's pairs."""
    published = read_published(PUBLISHED_TABLE)
    rows = [['', *map(in_words, study.pairs)]]
    methods = [method for method in study.points[PUBLISHED].methods if method != STUDENT]
    for methods_name in ['teacher', STUDENT, *methods]:
        values = [published.get((method_key(methods_name), pair_key(pair))) for pair in study.pairs]
        name = methods_name if methods_name == 'teacher' else in_words(methods_name)
        rows.append([name, *('-' if value is None else f'{value:.2f}' for value in values)])
    return table_of(rows)


def part(results: Results, name: str) -> str:
    """Return a part of a page.

    Raises:
        SettingError: The study has no such part.
    """
    study = results.study
    parts: dict[str, Callable[[], str]] = {
        'sittings': lambda: sittings_table(results),
        'table': lambda: methods_table(results),
        'summary': lambda: summary_table(results),
        **{axis: lambda axis=axis: axis_table(results, study.axes[axis]) for axis in study.axes},
    }
    if all(pair.endswith('_cifar100') for pair in study.pairs):
        parts['published'] = lambda: published_table(study)
    benchmark.check_name('part', name, list(parts))
    return parts[name]()


def filled(text: str, folder: Path) -> str:
    """Return a page with its parts as they are in a folder.

    Args:
        text: The page.
        folder: What run_study.py was given as ``--keep``.

    Raises:
        SettingError: It asks for nothing, for a study or a part that is not there, or does not say where a part ends.
    """
    begun = list(re.finditer(BEGIN, text))
    if not begun:
        raise SettingError('it asks for nothing: no line "<!-- STUDY: PART -->" with a "<!-- end -->" behind it.')
    for line in begun:
        if not BLOCK.match(text, line.start()):
            raise SettingError(f'behind {line[0].strip()} there is no <!-- end -->.')

    def fill(block: re.Match) -> str:
        benchmark.check_name('study', block[2], list(STUDIES))
        return f'{block[1]}\n{part(Results(STUDIES[block[2]], folder / block[2]), block[3])}\n\n{block[4]}'

    return BLOCK.sub(fill, text)


def draw_methods(results: Results) -> 'Figure':
    """Return a figure: a panel for each pair, each method's seeds, mean and deviation, ICD's in another colour."""
    study = results.study
    methods = study.points[PUBLISHED].methods
    figure, panels = new_figure(1, len(study.pairs), panel_size=(4.2, 0.9 + 0.3 * len(methods)), sharey=True)
    for panel, pair in zip(panels[0], study.pairs, strict=True):
        teacher = results.teacher(pair)
        title = in_words(pair)
        panel.set_title(title if teacher is None else f'{title} (teacher {teacher:.1f} %)')
        panel.set_yticks(range(len(methods)), [in_words(name) for name in methods])
        panel.set_ylim(len(methods) - 0.5, -0.5)
        panel.set_xlabel('top-1 accuracy (%)')
        panel.grid(alpha=0.3)
        for place, name in enumerate(methods):
            colour = HIGHLIGHTED if 'icd' in name.split('+') else PLAIN
            draw_cell(panel, results.cell(PUBLISHED, name, pair), place, colour, across=True)
        if (alone := results.cell(PUBLISHED, STUDENT, pair).mean) is not None:
            panel.axvline(alone, color='grey', linewidth=1, linestyle='--')
    return figure


def draw_axis(results: Results, axis: Axis) -> 'Figure':
    """Return a figure: accuracy at each point of an axis, the published one in another colour."""
    (pair,) = results.study.pairs
    values = list(axis.values.items())
    figure, panels = new_figure(panel_size=(1.6 + 0.85 * len(values), 3.0))
    panel = panels[0, 0]
    panel.set_xticks(range(len(values)), [value for value, _ in values])
    panel.set_xlim(-0.5, len(values) - 0.5)
    panel.set_xlabel(axis.title)
    panel.set_ylabel('top-1 accuracy (%)')
    panel.grid(alpha=0.3)
    entries, methods = {}, methods_on(results.study, axis)
    for number, method in enumerate(methods):
        # side by side
        shift = 0.16 * (number - (len(methods) - 1) / 2)
        for place, (_, point) in enumerate(values):
            colour = 'grey' if method == STUDENT else HIGHLIGHTED if point == PUBLISHED else PLAIN
            name = in_words(method) + (', published setting' if colour == HIGHLIGHTED else '')
            entries[name] = draw_cell(panel, results.cell(point, method, pair), place + shift, colour) or entries.get(
                name
            )
    if STUDENT not in methods:
        alone = results.cell(PUBLISHED, STUDENT, pair).mean
        if alone is not None:
            entries['student alone'] = panel.axhline(alone, color='grey', linewidth=1, linestyle='--')
    add_legend(figure, {name: entry for name, entry in entries.items() if entry is not None})
    return figure


def draw_cell(panel: 'Axes', cell: Cell, place: float, colour: str, across: bool = False) -> object:
    """Draw the seeds as small points, mean and deviation as a large one; return the latter, or None without seeds."""
    if cell.mean is None:
        return None
    seeds = dict(x=cell.accuracies, y=[place] * len(cell.accuracies))
    mean = dict(x=cell.mean, y=place, xerr=cell.deviation)
    if not across:
        seeds = dict(x=seeds['y'], y=seeds['x'])
        mean = dict(x=place, y=cell.mean, yerr=cell.deviation)
    panel.scatter(**seeds, s=9, color=colour, alpha=0.5)
    return panel.errorbar(**mean, fmt='D', color=colour, markersize=6, capsize=3)


def figures_of(name: str, results: Results) -> dict[str, Callable[[], 'Figure']]:
    """Return what draws each figure of a study, by the names of their files."""
    if not results.study.axes:
        return {f'results_{name}': lambda: draw_methods(results)}
    return {
        f'results_{name}_{axis_name}': lambda axis=axis: draw_axis(results, axis)
        for axis_name, axis in results.study.axes.items()
        if results.has(axis)
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', metavar='FOLDER', type=Path, help='the --keep of run_study.py')
    parser.add_argument('--pages', nargs='+', default=[], type=Path, metavar='FILE.md', help='pages to fill in')
    parser.add_argument('--figures', type=Path, metavar='FOLDER', help='for the figures of all studies that were run')
    parser.add_argument('--force', action='store_true', help='replace figures that these tools did not draw')
    args = parser.parse_args(arguments)
    studies = {name: Results(study, args.folder / name) for name, study in STUDIES.items()}
    studies = {name: results for name, results in studies.items() if results.cells}
    if not studies:
        raise SettingError(f'{args.folder} holds no study. Give the --keep of tools/benchmarks/run_study.py.')
    for page in args.pages:
        if not page.is_file():
            raise SettingError(f'--pages {page}: there is no such file.')
        check_writable(page, '--pages')
    for name, results in studies.items():
        for file in figures_of(name, results) if args.figures else ():
            figure_files(args.figures / f'{file}.png', args.force, '--figures')
    pages = {}
    for page in args.pages:
        try:
            pages[page] = filled(page.read_text(), args.folder)
        except SettingError as error:
            raise SettingError(f'--pages {page}: {error}') from error
    for page, text in pages.items():
        write_whole(text, page)
    for name, results in studies.items():
        for kind in ['table', *results.study.axes]:
            print(f'{name}: {kind}\n\n{part(results, kind)}\n')
        if args.figures:
            for file, draw in figures_of(name, results).items():
                save_figure(draw(), args.figures / f'{file}.png', args.force)


if __name__ == '__main__':
    run(main)
