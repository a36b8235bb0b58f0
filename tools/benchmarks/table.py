#!/usr/bin/env python3
"""Make tables and figures of what tools/benchmarks/run.py has trained.

    table.py work_dirs/studies                                      print the tables
    table.py work_dirs/studies --json my_results.json               also keep the numbers in one file
    table.py docs/results.json --pages docs/results.md README.md --figures docs/images [--check]

In a page, the text between the lines "<!-- STUDY: PART -->" and "<!-- end -->" is replaced. PART is "table" (the
methods in the published setting), "summary" (their accuracies alone), the name of an axis, or "sessions" (dates,
machines, times). With --check nothing is written, and the exit status is 1 if a page or a figure is stale.
"""

import argparse
import hashlib
import io
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icd_mmrazor import recipes
from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.command_line import run as run_tool
from icd_mmrazor.models.networks.changed_student import changing_distiller

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import NOT_RUN, Results, dump, read, studies_in
from studies import PUBLISHED, Axis, Study

STUDENT = recipes.STUDENT_ALONE
START = re.compile(r'<!-- ([\w-]+): ([\w-]+) -->\n')
BLOCK = re.compile(rf'({START.pattern})(?:(?!<!-- ).)*(<!-- end -->)', re.DOTALL)
HIGHLIGHTED, PLAIN = '#D55E00', '#0072B2'


def display_name(name: str) -> str:
    """Return how tables call methods, or a pair."""
    if name == STUDENT:
        return 'student alone'
    if name in recipes.pair_names():
        return ' → '.join(name.split('_')[:2])
    methods, known = name.split('+'), {*recipes.method_names()}
    labels = [recipes.describe_method(each).partition(':')[0] if each in known else each for each in methods]
    changed = {*methods} <= known and changing_distiller(recipes.compose_distiller(methods))
    return '+'.join(labels) + (' (larger student)' if changed else '')


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a Markdown table; the first row is its head."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([lines[0], '|---' + '|---:' * (len(rows[0]) - 1) + '|', *lines[1:]])


def methods_table(results: Results, details: bool = True) -> str:
    """Return the accuracy of each method on each pair; with details the gain over the student alone, and minutes.

    Methods of two views of each image have a table of their own: they train on more than the others.
    """
    combinations = results.study.points[PUBLISHED].methods
    apart = [methods for methods in combinations if takes_two_views(methods)]
    parts = [_methods_table(results, details, [methods for methods in combinations if methods not in apart])]
    if apart:
        title = 'Two views of each image in a batch, not to be compared with one:'
        # the student alone saw one view
        parts = [*(parts if len(apart) < len(combinations) else []), title, _methods_table(results, False, apart)]
    return '\n\n'.join([*parts, *(['\n'.join(results.notes())] if results.notes() else [])])


def takes_two_views(methods: str) -> bool:
    """Return whether a combination of methods trains on two views of each image in a batch."""
    known = {*recipes.method_names()} - {STUDENT}
    return any('views' in recipes.needs_of(name) for name in recipes.split_methods(methods) if name in known)


def _methods_table(results: Results, details: bool, combinations: Sequence[str]) -> str:
    head, teachers = [''], ['teacher']
    for pair in results.study.pairs:
        teacher = results.teacher(pair)
        more = ['over the student alone', 'minutes'] if details else []
        head += [f'{results.study.labels.get(pair) or display_name(pair)}, top-1 (%)', *more]
        teachers += [NOT_RUN if teacher is None else f'{teacher:.2f}', *([''] * len(more))]
    rows = [head, teachers]
    for methods in combinations:
        row = [display_name(methods)]
        for pair in results.study.pairs:
            cell = PUBLISHED, methods, pair
            mean, alone = results.mean(*cell), results.mean(PUBLISHED, STUDENT, pair)
            row.append(results.accuracy(*cell))
            if details:
                gain = '' if None in (mean, alone) or methods == STUDENT else f'{mean - alone:+.2f}'
                row += [gain, results.minutes(*cell)]
        rows.append(row)
    return markdown(rows)


def axis_table(results: Results, axis: Axis) -> str:
    """Return the accuracy at each point of an axis, and that of the student alone."""
    (pair,), methods = results.study.pairs, methods_on(results.study, axis)
    rows = [[axis.title, *(f'{display_name(name)}, top-1 (%)' for name in methods)]]
    for value, point in axis.values.items():
        name = ' '.join(value.split()) + (' (published)' if point == PUBLISHED else '')
        rows.append([name, *(results.accuracy(point, method, pair) for method in methods)])
    if STUDENT not in methods and PUBLISHED in results.study.points:
        rows.append([display_name(STUDENT), results.accuracy(PUBLISHED, STUDENT, pair)])
    return markdown(rows)


def methods_on(study: Study, axis: Axis) -> list[str]:
    """Return the methods that all points of an axis have."""
    first, *others = (study.points[point].methods for point in axis.values.values())
    return [method for method in first if all(method in other for other in others)]


def sessions_table(results: Results) -> str:
    """Return when, where and for how long the trainings ran."""
    rows = [['started (UTC)', 'commit', 'machine', 'at a time', 'trainings', 'minutes until the last one ended']]
    for session in results.sessions:
        machine, gpus = session['machine'], session['gpus']
        cores = f'{session["cores_used"]} of {machine["cores"]} cores'
        device = f'{cores} of {machine["processor"]} ({machine["instructions"]})'
        if gpus:
            device = f'GPUs {gpus}: {machine["gpu"]}, CUDA {machine["cuda"]}; {device}'
        place = f'{device}, Python {machine["python"]}, torch {machine["torch"]}'
        counts = [str(session['slots']), str(session['trainings']), f'{session["minutes"]:.0f}']
        rows.append([session['started'][:16].replace('T', ' '), f'`{session["commit"]}`', place, *counts])
    return '\n\n'.join([markdown(rows), *results.teacher_passes()]) if len(rows) > 1 else f'{NOT_RUN.capitalize()}.'


def parts_of(study: Study) -> list[str]:
    """Return the parts that have the accuracies of a study."""
    return [*(['table'] if PUBLISHED in study.points else []), *study.axes]


def part(results: Results, name: str) -> str:
    """Return a part of a page."""
    study = results.study
    summary = ['summary'] if PUBLISHED in study.points else []
    recipes.check_name('part', name, [*parts_of(study), 'sessions', *summary])
    if name in study.axes:
        return axis_table(results, study.axes[name])
    if name == 'sessions':
        return sessions_table(results)
    return methods_table(results, details=name == 'table')


def filled(text: str, studies: dict[str, Results]) -> str:
    """Return a page with its parts replaced."""
    starts = list(START.finditer(text))
    if not starts or not all(BLOCK.match(text, start.start()) for start in starts):
        raise SettingError('it needs a line "<!-- STUDY: PART -->" and a line "<!-- end -->" for each part.')

    def fill(block: re.Match) -> str:
        recipes.check_name('study', block[2], list(studies))
        return f'{block[1]}\n{part(studies[block[2]], block[3])}\n\n{block[4]}'

    return BLOCK.sub(fill, text)


def new_figure(panels: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels; matplotlib's pyplot, which looks for a display, is not needed."""
    rows = -(-panels // columns)
    figure = Figure(figsize=(columns * width, rows * height), layout='constrained')
    found = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for panel in found:
        panel.grid(alpha=0.3)
        panel.spines[['top', 'right']].set_visible(False)
    for panel in found[panels:]:
        panel.set_axis_off()
    return figure, found[:panels]


def draw_methods(results: Results) -> Figure:
    """Draw a panel for each pair: the seeds of each method of one view of each image, their mean and deviation."""
    methods = [methods for methods in results.study.points[PUBLISHED].methods if not takes_two_views(methods)]
    pairs = [pair for pair in results.study.pairs if any(results.runs(PUBLISHED, name, pair) for name in methods)]
    figure, panels = new_figure(len(pairs), min(3, len(pairs)), 4.2, 0.9 + 0.3 * len(methods))
    for panel, pair in zip(panels, pairs, strict=True):
        teacher = results.teacher(pair)
        title = results.study.labels.get(pair) or display_name(pair)
        panel.set_title(title if teacher is None else f'{title} (teacher {teacher:.1f} %)', fontsize=10)
        panel.set_yticks(range(len(methods)), [display_name(name) for name in methods])
        panel.set_ylim(len(methods) - 0.5, -0.5)
        panel.set_xlabel('top-1 accuracy (%)')
        for place, name in enumerate(methods):
            colour = HIGHLIGHTED if 'icd' in name.split('+') else PLAIN
            draw_cell(panel, results.runs(PUBLISHED, name, pair), place, colour, across=True)
        if (alone := results.mean(PUBLISHED, STUDENT, pair)) is not None:
            panel.axvline(alone, color='grey', linewidth=1, linestyle='--')
    return figure


def draw_axes(results: Results, axes: Sequence[Axis]) -> Figure:
    """Draw a panel for each axis: the accuracy at each point, at the published one in another colour."""
    figure, panels = new_figure(len(axes), min(3, len(axes)), 4.2, 2.9)
    entries: dict[str, Any] = {}
    for panel, axis in zip(panels, axes, strict=True):
        panel.set_xlabel(axis.title)
        panel.set_xticks(range(len(axis.values)), axis.values)
        panel.set_xlim(-0.5, len(axis.values) - 0.5)
        entries |= draw_axis(panel, results, axis)
    figure.supylabel('top-1 accuracy (%)', fontsize='medium')
    figure.legend(entries.values(), entries, loc='outside upper center', ncols=4, frameon=False)
    return figure


def draw_axis(panel: Axes, results: Results, axis: Axis) -> dict[str, Any]:
    """Draw the points of an axis; return what is drawn, by its name in the legend."""
    (pair,), methods, entries = results.study.pairs, methods_on(results.study, axis), {}
    for number, method in enumerate(methods):
        shift = 0.16 * (number - (len(methods) - 1) / 2)
        for place, point in enumerate(axis.values.values()):
            plain = PLAIN if len(methods) <= 2 else f'C{number}'
            colour = 'grey' if method == STUDENT else HIGHLIGHTED if point == PUBLISHED else plain
            name = display_name(method) + (', published setting' if colour == HIGHLIGHTED else '')
            entries[name] = draw_cell(panel, results.runs(point, method, pair), place + shift, colour)
    alone = results.mean(PUBLISHED, STUDENT, pair)
    if STUDENT not in methods and alone is not None:
        name = f'{display_name(STUDENT)}, published setting'
        entries[name] = panel.axhline(alone, color='grey', linewidth=1, linestyle='--')
    return entries


def draw_cell(panel: Axes, runs: list[dict], place: float, colour: str, across: bool = False) -> Any:
    """Draw seeds as dots, mean and deviation as a diamond, which is returned; None without runs."""
    if not runs:
        return None
    values = [run['accuracy'] for run in runs]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    along, over = ('x', 'y') if across else ('y', 'x')
    panel.scatter(**{along: values, over: [place] * len(values)}, s=9, color=colour, alpha=0.5)
    mean = {along: statistics.mean(values), over: place, f'{along}err': deviation}
    return panel.errorbar(**mean, fmt='D', color=colour, markersize=6, capsize=3)


def figures_of(studies: dict[str, Results]) -> dict[str, tuple[Results, list[Axis], str]]:
    """Return the figures by the names of their files: results, axes to draw, and a digest of the tables they show."""
    figures = {}
    for name, results in studies.items():
        axes = {key: axis for key, axis in results.study.axes.items() if NOT_RUN not in axis_table(results, axis)}
        if results.sessions and (axes or not results.study.axes):
            shown = ''.join(part(results, key) for key in axes or ['table'])
            digest = hashlib.sha256(shown.encode()).hexdigest()
            figures[f'results_{name}.png'] = results, [*axes.values()], digest
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='FOLDER|FILE', type=Path, help='the --work-dir of run.py, or a --json')
    parser.add_argument('--json', metavar='FILE', type=Path, help='write all numbers to FILE')
    parser.add_argument('--pages', nargs='+', default=[], type=Path, metavar='FILE.md', help='pages to fill in')
    parser.add_argument('--figures', type=Path, metavar='FOLDER', help='draw the figures of all studies that were run')
    parser.add_argument('--check', action='store_true', help='write nothing; fail if a page or a figure is stale')
    args = parser.parse_args(arguments)
    if args.json:
        check_writable(args.json, '--json')
    found = read(args.source)
    if not found:
        raise SettingError(f'{args.source} holds no finished training of tools/benchmarks/run.py.')
    studies, pages = studies_in(found), {}
    for page in args.pages:
        check_writable(page, '--pages')
        try:
            pages[page] = filled(page.read_text(), studies)
        except (OSError, SettingError) as error:
            raise SettingError(f'--pages {page}: {error}') from error
    figures = {args.figures / name: figure for name, figure in figures_of(studies).items()} if args.figures else {}
    for file in figures:
        check_writable(file, '--figures')
    if args.check:
        stale = [page for page, text in pages.items() if page.read_text() != text]
        # the digest, since the pixels depend on the version of matplotlib
        drawn = {file: file.read_bytes() if file.is_file() else b'' for file in figures}
        stale += [file for file, (*_, digest) in figures.items() if digest.encode() not in drawn[file]]
        if stale:
            raise UserError(f'{", ".join(map(str, stale))} differ from {args.source}; repeat without --check.')
        return
    for page, text in pages.items():
        atomic_write(text, page)
    for file, (results, axes, digest) in figures.items():
        figure, content = draw_axes(results, axes) if axes else draw_methods(results), io.BytesIO()
        figure.savefig(content, format='png', dpi=150, metadata={'Description': digest})
        atomic_write(content.getvalue(), file)
    if args.json:
        atomic_write(dump(found), args.json)
    for name in found:
        for kind in parts_of(studies[name].study):
            print(f'{name}: {kind}\n\n{part(studies[name], kind)}\n')
        print(*(f'{sentence}\n' for sentence in studies[name].teacher_passes()))


if __name__ == '__main__':
    run_tool(main)
