"""The figures of studies, from what run_study.py kept."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from studies import PUBLISHED, Axis
from study_tables import STUDENT, Results, in_words, methods_on

from icd_mmrazor.utils.figures import add_legend, new_figure, style
from icd_mmrazor.utils.trial_results import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# what is being shown, among the others
HIGHLIGHTED, PLAIN = style(1).color, style(0).color


def draw_methods(results: Results) -> 'Figure':
    """Return a figure: a panel for each pair that has runs, each method's seeds, mean and deviation, ICD's coloured."""
    study = results.study
    methods = study.points[PUBLISHED].methods
    pairs = [pair for pair in study.pairs if any(results.cell(PUBLISHED, name, pair).accuracies for name in methods)]
    figure, panels = new_figure(1, len(pairs), panel_size=(4.2, 0.9 + 0.3 * len(methods)), sharey=True)
    for panel, pair in zip(panels[0], pairs, strict=True):
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
        return {f'results_{name}': lambda: draw_methods(results)} if results.cells else {}
    return {
        f'results_{name}_{axis_name}': lambda axis=axis: draw_axis(results, axis)
        for axis_name, axis in results.study.axes.items()
        if results.has(axis)
    }
