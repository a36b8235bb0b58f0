"""The tables of studies, from what run_study.py kept."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from sittings import read_sittings
from studies import PUBLISHED, STUDIES, Axis, Study, teacher_of

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.training_logs import LOGS, read_log
from icd_mmrazor.utils.trial_results import Cell, Run, method_key, pair_key, read_published

PUBLISHED_TABLE = Path(__file__).with_name('published_cifar100.csv')
STUDENT = recipes.STUDENT_ALONE
NOT_RUN = 'not run'


class Results:
    """What was kept of a study.

    Args:
        study: What was asked for.
        folder: What run_study.py kept of it; it may not be there.

    Raises:
        SettingError: A kept file is broken.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        self.study = study
        self.folder = folder
        self.cells: dict[tuple[str, str, str], Cell] = {}
        # minutes of the trainings that were not resumed: of others the time is that of the last process alone
        self._minutes: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for point in study.points:
            for file in sorted((folder / point).glob('*/*/seed_*/result.json')):
                seed_folder = file.parent
                methods, pair, seed = seed_folder.parts[-3:]
                try:
                    result = json.loads(file.read_text())
                    epochs, minutes = result['epochs'], result['seconds'] / 60
                    run = Run(read_log(seed_folder).accuracies[epochs], epochs)
                except (ValueError, TypeError, KeyError) as error:
                    remedy = 'Delete that folder; run_study.py with the same --keep copies it again.'
                    raise SettingError(f'{seed_folder} is broken ({error!r}). {remedy}') from error
                cell = self.cells.setdefault((point, methods, pair), Cell(methods, pair))
                cell.runs[int(seed.removeprefix('seed_'))] = run
                if len(list(seed_folder.glob(LOGS))) == 1:
                    self._minutes[point, methods, pair].append(minutes)

    def cell(self, point: str, methods: str, pair: str) -> Cell:
        """Return a cell, without runs if there are none."""
        return self.cells.get((point, methods, pair), Cell(methods, pair))

    def teacher(self, pair: str) -> float | None:
        """Return the accuracy of a pair's teacher."""
        accuracies = read_log(self.folder / 'teachers' / teacher_of(pair)).accuracies
        return accuracies[max(accuracies)] if accuracies else None

    def minutes(self, point: str, methods: str, pair: str) -> float | None:
        """Return how long a training of a cell took, the mean over its seeds, without those that were resumed."""
        minutes = self._minutes.get((point, methods, pair))
        return statistics.mean(minutes) if minutes else None

    def has(self, axis: Axis) -> bool:
        """Return whether there is a number on an axis."""
        return any(point in axis.values.values() for point, _, _ in self.cells)


def read_studies(folder: Path) -> dict[str, Results]:
    """Return the results of all studies by their names, of those that were not run too.

    Args:
        folder: What run_study.py was given as ``--keep``.
    """
    return {name: Results(study, folder / name) for name, study in STUDIES.items()}


def in_words(name: str) -> str:
    """Return how a table calls methods, or a pair."""
    if name == STUDENT:
        return 'student alone'
    networks = name.split('_')
    return ' → '.join(networks[:2]) if len(networks) > 1 else name.upper().replace('FITNET', 'FitNet')


def accuracy(cell: Cell, seeds: Sequence[int]) -> str:
    """Return mean and spread, with the seeds where they are not the study's."""
    if cell.mean is None:
        return NOT_RUN
    spread = '' if cell.deviation is None else f' ± {cell.deviation:.2f}'
    finished = sorted(cell.runs)
    others = '' if finished == sorted(seeds) else f' (seed{"s" * (len(finished) > 1)} {", ".join(map(str, finished))})'
    return f'{cell.mean:.2f}{spread}{others}'


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table of Markdown, the first one as its head, all but the first column to the right."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([lines[0], '|---' + '|---:' * (len(rows[0]) - 1) + '|', *lines[1:]])


def methods_table(results: Results, details: bool = True) -> str:
    """Return the accuracy of each method on each pair; with details the gain over the student alone, and minutes."""
    study = results.study
    head, teachers = [''], ['teacher']
    for pair in study.pairs:
        teacher = results.teacher(pair)
        head += [f'{in_words(pair)}, top-1 (%)', *(['over the student alone', 'minutes'] if details else [])]
        teachers += [NOT_RUN if teacher is None else f'{teacher:.2f}', *(['', ''] if details else [])]
    rows = [head, teachers]
    for methods in study.points[PUBLISHED].methods:
        row = [in_words(methods)]
        for pair in study.pairs:
            cell, alone = results.cell(PUBLISHED, methods, pair), results.cell(PUBLISHED, STUDENT, pair)
            row.append(accuracy(cell, study.seeds))
            if details:
                known = None not in (cell.mean, alone.mean) and methods != STUDENT
                minutes = results.minutes(PUBLISHED, methods, pair)
                row += [f'{cell.mean - alone.mean:+.2f}' if known else '', '' if minutes is None else f'{minutes:.1f}']
        rows.append(row)
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
        'summary': lambda: methods_table(results, details=False),
        **{axis: lambda axis=axis: axis_table(results, study.axes[axis]) for axis in study.axes},
    }
    if all(pair.endswith('_cifar100') for pair in study.pairs):
        parts['published'] = lambda: published_table(study)
    recipes.check_name('part', name, list(parts))
    return parts[name]()
