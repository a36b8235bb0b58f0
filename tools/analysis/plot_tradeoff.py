#!/usr/bin/env python3
"""Draw accuracy against cost: parameters, and multiply-adds for an image, of students and of their teachers.

The accuracy is that of the last epoch. Folders seed_0, seed_1, ... of one folder are one point, with the mean and the
sample standard deviation. Multiply-adds are those of convolutions, linear layers and matrix products; what others call
FLOPs is this number or twice this number. A teacher is drawn if the log says its accuracy.
"""

import argparse
import csv
import io
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icd_mmrazor.launch.command_line import run as run_tool

# isort: split
from mmengine.config import Config

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.student import plain_student
from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.utils.complexity import Complexity, complexity, image_size
from icd_mmrazor.utils.figures import (
    TEACHER_COLOUR,
    add_legend,
    add_out_arguments,
    figure_files,
    labels_of,
    new_figure,
    save_figure,
    style,
)
from icd_mmrazor.utils.training_logs import METRIC, read_teacher_metrics, read_training
from icd_mmrazor.utils.work_dirs import find_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = ('network', 'role', 'seeds', 'epoch', 'accuracy', 'std', 'parameters', 'multiply_adds', 'height', 'width')
TEACHER_MARKERS = '*ph8<>'
Size = tuple[int, int]


@dataclass(frozen=True)
class Point:
    """A network: its name in the figure, what it costs for which images, and its accuracies, one a seed."""

    name: str
    role: str
    cost: Complexity
    size: Size
    accuracies: tuple[float, ...]
    epoch: int | None = None

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def accuracy(self) -> str:
        return f'{self.mean:.2f}' + ('' if self.deviation is None else f' ± {self.deviation:.2f}')


def trainings(folders: Sequence[Path]) -> dict[Path, list[Path]]:
    """Group the folders: seeds of one training are one, by the folder they lie in.

    Raises:
        SettingError: A folder is named twice.
    """
    groups: dict[Path, list[Path]] = {}
    for folder in map(Path.resolve, folders):
        is_seed = folder.name.removeprefix('seed_').isdecimal() and folder.name.startswith('seed_')
        groups.setdefault(folder.parent if is_seed else folder, []).append(folder)
    for seeds in groups.values():
        if len({*seeds}) < len(seeds):
            raise SettingError(f'work folders {" ".join(map(str, folders))}: two are the same. Give each once.')
    return groups


def last_metric(folder: Path, metric: str) -> tuple[int, float]:
    """Return the last validated epoch and its metric.

    Raises:
        SettingError: No validation has it.
    """
    log = read_training(folder)
    values = {epoch: metrics[metric] for epoch, metrics in log.validations.items() if metric in metrics}
    if not values:
        found = ', '.join(dict.fromkeys(name for metrics in log.validations.values() for name in metrics))
        raise SettingError(
            f'work folder {folder}: no validation with {metric}'
            + (f'; there are {found}. Give one of them: --metric NAME.' if found else ' yet. Wait for the first one.')
        )
    epoch = max(values)
    return epoch, values[epoch]


def size_of(plain: Config, folder: Path, given: Size | None) -> Size:
    """Return the size of the images that a network is tested on.

    Raises:
        SettingError: The config does not say it.
    """
    dataset = (plain.get('test_dataloader') or {}).get('dataset') or {}
    size = given or image_size(dataset.get('pipeline') or [])
    if size is None:
        raise SettingError(
            f"work folder {folder}: its config does not say the images' size: no transform of the test's pipeline has "
            'a square one. Give it: --input-size HEIGHT WIDTH.'
        )
    return size


def points_of(
    folders: Sequence[Path], labels: Sequence[str] | None, metric: str, given_size: Size | None
) -> list[Point]:
    """Return the students, and the teachers of which the accuracy is known, each once.

    Raises:
        SettingError: A folder is no training, or its seeds are not equally far.
    """
    groups = trainings(folders)
    points: list[Point] = []
    teachers: dict[tuple, list[str]] = {}
    for label, seeds in zip(labels_of(list(groups), labels), groups.values(), strict=True):
        last = [last_metric(seed, metric) for seed in seeds]
        epochs = {epoch for epoch, _ in last}
        if len(epochs) > 1:
            states = ', '.join(f'{seed.name}: {epoch}' for seed, (epoch, _) in zip(seeds, last, strict=True))
            raise SettingError(f'{label}: the seeds are not equally far ({states}). Name those that have finished.')
        cfg = find_config(seeds[0])
        plain = plain_student(cfg)
        size = size_of(plain, seeds[0], given_size)
        cost = complexity(plain.model, size, label)
        points.append(Point(label, 'student', cost, size, tuple(value for _, value in last), *epochs))
        known = read_teacher_metrics(seeds[0]).get(metric)
        if cfg.model.get('teacher') and known is not None:
            teacher = network_config(cfg.model.teacher, 'model.teacher')
            teachers.setdefault((complexity(teacher, size, f'teacher of {label}'), size, (known,)), []).append(label)
    for values, students in teachers.items():
        name = 'teacher' if len(teachers) == 1 else f'teacher of {", ".join(students)}'
        points.append(Point(name, 'teacher', *values))
    return points


def table(points: Sequence[Point]) -> str:
    """Return a line for each network."""
    rows = [('', 'accuracy', 'seeds', 'epoch', 'parameters', 'multiply-adds', 'images')]
    for point in points:
        counts = [f'{count:,}' for count in point.cost]
        size = '{} x {}'.format(*point.size)
        trained = (str(len(point.accuracies)), str(point.epoch)) if point.epoch else ('', '')
        rows.append((point.name, point.accuracy, *trained, *counts, size))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return '\n'.join(line[: widths[0]].strip().ljust(widths[0]) + line[widths[0] :] for line in lines)


def write_csv(points: Sequence[Point], file: Path) -> None:
    """Write a line for each network, empty where there is no value."""
    content = io.StringIO(newline='')
    writer = csv.writer(content)
    writer.writerow(HEADER)
    for p in points:
        values = [round(p.mean, 4), '' if p.deviation is None else round(p.deviation, 4)]
        trained = [len(p.accuracies), p.epoch] if p.epoch else ['', '']
        writer.writerow([p.name, p.role, *trained, *values, *p.cost, *p.size])
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(content.getvalue(), file)


def draw(points: Sequence[Point], metric: str) -> 'Figure':
    """Return the figure: accuracy against parameters, and against multiply-adds."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure, panels = new_figure(1, 2, panel_size=(4.2, 3.4), sharey=True)
    sizes = ' or '.join(dict.fromkeys('{} x {}'.format(*point.size) for point in points))
    titles = {'parameters': 'parameters', 'multiply_adds': f'multiply-adds for an image of {sizes}'}
    entries = {}
    for panel, (cost, title) in zip(panels.flat, titles.items(), strict=True):
        markers = itertools.cycle(TEACHER_MARKERS)
        for place, point in enumerate(points):
            look = style(place)._asdict() | {'linestyle': 'none', 'markersize': 7, 'capsize': 3, 'zorder': 3}
            if point.role == 'teacher':
                look |= {'color': TEACHER_COLOUR, 'marker': next(markers), 'markersize': 11}
            drawn = panel.errorbar(getattr(point.cost, cost), point.mean, yerr=point.deviation, **look)
            entries[f'{point.name} ({point.accuracy})'] = drawn.lines[0]
        panel.set_xlabel(title)
        panel.set_xscale('log')
        panel.margins(x=0.15, y=0.1)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(EngFormatter(sep=''))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel('validation accuracy (%)' if metric == METRIC else metric)
    add_legend(figure, entries)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='the --work-dir of a training')
    parser.add_argument('--labels', nargs='+', metavar='NAME', help="the points' names (default: their folders)")
    parser.add_argument('--metric', default=METRIC, help=f'of the validations (default: {METRIC})')
    size = dict(nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), help="default: that of the config's test images")
    parser.add_argument('--input-size', **size)
    parser.add_argument('--csv', type=Path, metavar='FILE', help='write a line for each network')
    add_out_arguments(parser, 'tradeoff.png')
    args = parser.parse_args(arguments)
    figure_files(args.out, args.force)
    if args.input_size and min(args.input_size) < 1:
        raise SettingError(f'--input-size {" ".join(map(str, args.input_size))}: give two numbers of pixels.')
    if args.csv and args.csv.exists() and not args.force:
        raise SettingError(f'--csv {args.csv} exists. Name another file, or add --force.')
    given_size = tuple(args.input_size) if args.input_size else None
    points = points_of(args.work_dirs, args.labels, args.metric, given_size)
    print(table(points))
    if args.csv:
        write_csv(points, args.csv)
    print('written:', *save_figure(draw(points, args.metric), args.out, args.force), *([args.csv] if args.csv else []))


if __name__ == '__main__':
    run_tool(main)
