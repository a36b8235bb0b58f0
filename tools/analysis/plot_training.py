#!/usr/bin/env python3
"""Draw how trainings went, one colour a training: accuracy beside the teacher's, losses, ICD's terms, learning rate.

Reads what mmengine logs into each work folder; a training may still be running. A loss is the mean of the last
iterations before its log line, as the text log shows it (10 unless log_processor says otherwise); in a long training a
point is the mean of several lines, and the figure says of how many.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run as run_tool
from icd_mmrazor.utils.figures import (
    FONT_SIZE,
    TEACHER_COLOUR,
    add_legend,
    add_out_arguments,
    figure_files,
    labels_of,
    new_figure,
    save_figure,
    style,
)
from icd_mmrazor.utils.training_logs import METRIC, TrainingLog, read_teacher_metrics, read_training

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 200
FEW = 12
MAX_COLUMNS = 3
PANEL_SIZE = (3.3, 2.3)
LINE = {'linewidth': 1.5, 'markersize': 4}
METRIC_TITLES = {METRIC: 'validation accuracy (%)'}
TITLES = {'lr': 'learning rate'}
Curve = list[tuple[float, float]]


@dataclass
class Run:
    """A training: its name in the figure, its log, and its teacher's accuracy if there is one."""

    label: str
    log: TrainingLog
    teacher: float | None

    @property
    def lines_a_point(self) -> int:
        """How many log lines each point of a curve is the mean of."""
        return math.ceil(len(self.log.training) / MAX_POINTS)

    def curve(self, name: str) -> Curve:
        """Return the points of a number of the training, in epochs or iterations."""
        unit = self.log.iterations_per_epoch
        points = [(i / unit, numbers[name]) for i, numbers in self.log.training.items() if name in numbers]
        size = self.lines_a_point
        groups = [points[start : start + size] for start in range(0, len(points), size)]
        return [tuple(sum(values) / len(group) for values in zip(*group, strict=True)) for group in groups]

    @property
    def end(self) -> float:
        """The epoch, or iteration, that was reached."""
        trained = max(self.log.training, default=0) / self.log.iterations_per_epoch
        return max(trained, *self.log.validations, 0)

    def metric(self, name: str) -> Curve:
        """Return a metric of the validations."""
        return [(step, metrics[name]) for step, metrics in self.log.validations.items() if name in metrics]


def read_runs(folders: Sequence[Path], labels: Sequence[str] | None, metric: str) -> list[Run]:
    """Read the trainings.

    Raises:
        SettingError: A folder holds none, the labels are not one for each, no validation has the metric, or
            some trainings count epochs and others iterations.
    """
    labels = labels_of(folders, labels)
    logs = [read_training(folder) for folder in folders]
    teachers = [read_teacher_metrics(folder).get(metric) for folder in folders]
    runs = [Run(*parts) for parts in zip(labels, logs, teachers, strict=True)]
    if len({run.log.counts_epochs for run in runs}) > 1:
        counted = '; '.join(f'{run.label}: {"epochs" if run.log.counts_epochs else "iterations"}' for run in runs)
        raise SettingError(f'the trainings do not count the same ({counted}). Draw them in a figure each.')
    known = {name: None for run in runs for metrics in run.log.validations.values() for name in metrics}
    if known and metric not in known:
        raise SettingError(f'--metric {metric}: no validation has it. Give one of {", ".join(known)}.')
    if not known and not logged_names(runs):
        raise SettingError(f'the logs of {", ".join(run.label for run in runs)} have no losses and no metrics to draw.')
    return runs


def logged_names(runs: Sequence[Run]) -> list[str]:
    """Return the names of the trainings' numbers: the whole loss, its terms, others, the learning rate."""
    names = dict.fromkeys(name for run in runs for numbers in run.log.training.values() for name in numbers)
    names.pop('epoch', None)
    return sorted(names, key=lambda name: (name == 'lr', 'loss' not in name, '.' in name))


def draw_curves(panel: 'Axes', curves: Sequence[Curve]) -> None:
    """Draw the curve of each run; the markers of a long one are few."""
    for place, curve in enumerate(curves):
        if curve:
            every = 1 if len(curve) <= FEW else len(curve) // 8
            panel.plot(*zip(*curve, strict=True), markevery=every, **LINE, **style(place)._asdict())


def draw_teachers(panel: 'Axes', runs: Sequence[Run]) -> dict[str, 'Artist']:
    """Draw each teacher's accuracy once; return what the legend says of it."""
    accuracies = [accuracy for accuracy in dict.fromkeys(run.teacher for run in runs) if accuracy is not None]
    entries = {}
    for place, accuracy in enumerate(accuracies):
        students = ', '.join(run.label for run in runs if run.teacher == accuracy)
        name = f'teacher ({accuracy:.2f})' if len(accuracies) == 1 else f'teacher of {students} ({accuracy:.2f})'
        dashes = style(place + 2).linestyle
        entries[name] = panel.axhline(accuracy, color=TEACHER_COLOUR, linestyle=dashes, linewidth=LINE['linewidth'])
    return entries


def draw(runs: Sequence[Run], metric: str) -> 'Figure':
    """Return the figure: a panel for the metric, and one for each number of the trainings."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    # by title
    metrics = [run.metric(metric) for run in runs]
    title = METRIC_TITLES.get(metric, f'validation {metric}')
    end = max(run.end for run in runs)
    last = [[point for point in curve if point[0] >= 0.75 * end] for curve in metrics]
    curves = {title: metrics, f'{title}, last quarter': last if max(map(len, last)) >= FEW else []}
    curves |= {TITLES.get(name, name): [run.curve(name) for run in runs] for name in logged_names(runs)}
    curves = {title: of_runs for title, of_runs in curves.items() if any(of_runs)}
    columns = min(MAX_COLUMNS, len(curves))
    figure, panels = new_figure(math.ceil(len(curves) / columns), columns, panel_size=PANEL_SIZE)
    for panel in panels.flat[len(curves) :]:
        panel.set_visible(False)
    panels = dict(zip(curves, panels.flat, strict=False))
    for name, panel in panels.items():
        draw_curves(panel, curves[name])
        panel.set_title(name)
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.set_xlim(0.74 * end if curves[name] is last else 0, 1.02 * end)
    rates = [value for curve in curves.get(TITLES['lr'], []) for _, value in curve]
    if rates and max(rates) >= 10 * min(rates) > 0:
        panels[TITLES['lr']].set_yscale('log')
        panels[TITLES['lr']].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    entries = {
        run.label + (f' ({curve[-1][1]:.2f})' if curve else ''): Line2D([], [], **LINE, **style(place)._asdict())
        for place, (run, curve) in enumerate(zip(runs, metrics, strict=True))
    }
    if title in panels:
        entries |= draw_teachers(panels[title], runs)
    unit = 'epoch' if runs[0].log.counts_epochs else 'iteration'
    lines = max(run.lines_a_point for run in runs)
    mean = f' (each point of the training is the mean of up to {lines} log lines)' if lines > 1 else ''
    figure.supxlabel(unit + mean, fontsize=FONT_SIZE)
    add_legend(figure, entries)
    return figure


def summary(run: Run, metric: str) -> str:
    """Return in a line how far a training is."""
    unit = 'epoch' if run.log.counts_epochs else 'iteration'
    values = dict(run.metric(metric))
    if not values:
        return f'{run.label}: not validated yet, {len(run.log.training)} log lines'
    best = max(values, key=values.get)
    last = max(values)
    teacher = '' if run.teacher is None else f'; teacher {run.teacher:.2f}'
    return (
        f'{run.label}: {values[last]:.2f} after {unit} {last}, highest {values[best]:.2f} after {unit} {best}{teacher}'
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='the --work-dir of a training')
    parser.add_argument('--labels', nargs='+', metavar='NAME', help="the trainings' names (default: their folders')")
    parser.add_argument('--metric', default=METRIC, help=f'of the validations (default: {METRIC})')
    add_out_arguments(parser, 'training.png')
    args = parser.parse_args(arguments)
    figure_files(args.out, args.force)
    runs = read_runs(args.work_dirs, args.labels, args.metric)
    for run in runs:
        print('; '.join([summary(run, args.metric), *run.log.problems]))
    print('written:', *save_figure(draw(runs, args.metric), args.out, args.force))


if __name__ == '__main__':
    run_tool(main)
