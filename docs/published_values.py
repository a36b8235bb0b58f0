"""Published accuracies with their sources, and what we ran in the published setting.

``tools/benchmarks/published.csv`` has a line for each published accuracy, and ``published_sources.csv`` says where they
come from; ``docs/results.json`` has our own trainings.
"""

import csv
import functools
import json
import re
import runpy
import statistics
from pathlib import Path
from typing import NamedTuple

STUDENT, ROLES = 'student', ('teacher', 'student')
# the studies' name for the settings of the methods' configs
PUBLISHED = 'published'
# sources of single runs that give the best and the last epoch of what their authors publish as means
LOGS = {'best': 'lskd-logs-best', 'last': 'lskd-logs-last'}
# the trainings of these commits have their logs in the history of the repository, at the last commit of version 0.1
LOGGED, LOGGED_AT = {'ebb00bc', 'e442dd5', '13d44f6'}, 'd148a91:docs/results'


class Value(NamedTuple):
    """A published accuracy.

    Attributes:
        method: Its name in the tables: ``KD+LS``, ``ICD+KD``, ``SimKD f=2``; ``teacher`` and ``student`` alone.
        pair: ``TEACHER_STUDENT_DATASET``.
        accuracy: Top-1, in percent.
        spread: Standard deviation, if published.
        source: The key of its source.
        apart: Why it cannot be compared with the others; empty if it can.
        detail: Settings.
    """

    method: str
    pair: str
    accuracy: str
    spread: str
    source: str
    apart: str
    detail: str


class Source(NamedTuple):
    """Where accuracies were published, and which ``epoch`` they count: best, last, or empty if it is not said."""

    source: str
    where: str
    url: str
    epoch: str
    note: str

    @property
    def link(self) -> str:
        """Where it is, as a link if it has one."""
        return f'[{self.where}]({self.url})' if self.url else self.where


class Run(NamedTuple):
    """Finished trainings of a method on a pair, in a study of ours."""

    study: str
    methods: str  # as its command has them: icd+kd
    accuracies: list[float]
    seeds: list[int]
    command: str
    log: str
    changed: bool  # whether the study changes settings of the method

    @property
    def accuracy(self) -> str:
        """Mean and sample standard deviation."""
        spread = f' ± {statistics.stdev(self.accuracies):.2f}' if len(self.accuracies) > 1 else ''
        return f'{statistics.mean(self.accuracies):.2f}{spread}{" (other settings)" if self.changed else ""}'


def _rows(root: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((root / 'tools' / 'benchmarks' / name).read_text().splitlines()))


@functools.cache
def values(root: Path) -> list[Value]:
    """Return all published accuracies, those of a method together, its authors' first."""
    return [Value(**row) for row in _rows(root, 'published.csv')]


@functools.cache
def sources(root: Path) -> dict[str, Source]:
    """Return all sources by their keys."""
    return {row['source']: Source(**row) for row in _rows(root, 'published_sources.csv')}


def names_of(method: str) -> list[str]:
    """Return the names of the configs of a published method: ``['wttm', 'crd']`` for ``WTTM+CRD``.

    Logit standardisation (``+LS``) is a config of its own: ``kd_ls``. What follows a space are settings.
    """
    return method.partition(' ')[0].lower().replace('+ls', '_ls').split('+')


def key_of(method: str) -> str:
    """Return the name by which our trainings and a published method meet; one with settings has none of ours."""
    return method if ' ' in method else '+'.join(sorted(names_of(method)))


@functools.cache
def alone(root: Path, role: str) -> dict[str, Value]:
    """Return the published accuracy of the ``teacher`` or the ``student`` alone by pair, the benchmark's first."""
    return {value.pair: value for value in reversed(values(root)) if value.method == role}


@functools.cache
def _studies(root: Path) -> dict:
    return runpy.run_path(str(root / 'tools' / 'benchmarks' / 'studies.py'))['STUDIES']


@functools.cache
def _results(root: Path) -> dict:
    file = root / 'docs' / 'results.json'
    return json.loads(file.read_text()) if file.is_file() else {}


@functools.cache
def runs(root: Path) -> dict[tuple[str, str], list[Run]]:
    """Return our trainings in the published setting, by :func:`key_of` a method and by pair; one entry a study."""
    found: dict[tuple[str, str], list[Run]] = {}
    for study, results in _results(root).items():
        commits = {session['started']: session['commit'] for session in results['sessions']}
        cells: dict[tuple[str, str], list[dict]] = {}
        for run in results['runs']:
            if run['point'] == PUBLISHED:
                cells.setdefault((run['methods'], run['pair']), []).append(run)
        for (methods, pair), of_cell in cells.items():
            of_cell.sort(key=lambda run: run['seed'])
            logged = {commits[run['session']] for run in of_cell} <= LOGGED
            found.setdefault(('+'.join(sorted(methods.split('+'))), pair), []).append(
                Run(
                    study,
                    methods,
                    [run['accuracy'] for run in of_cell],
                    [run['seed'] for run in of_cell],
                    _command(root, study, of_cell),
                    f'`{LOGGED_AT}/{study}/{PUBLISHED}/{methods}/{pair}`' if logged else '',
                    _is_changed(root, study, of_cell[0]),
                )
            )
    return found


def _command(root: Path, study: str, of_cell: list[dict]) -> str:
    """Return the command that repeats the trainings of a cell."""
    first, seeds, known = of_cell[0], [run['seed'] for run in of_cell], _studies(root).get(study)
    cell = f'--methods {first["methods"]} --pairs {first["pair"]}'
    given = f' --seeds {" ".join(map(str, seeds))}'
    if known is None:
        options = f' --cfg-options {" ".join(first["options"])}' if first['options'] else ''
        return f'run.py {cell}{given}{options}'
    point = f' --points {PUBLISHED}' if len(known.points) > 1 else ''
    return f'run.py {study}{point} {cell}{"" if seeds == sorted(known.seeds) else given}'


def _is_changed(root: Path, study: str, run: dict) -> bool:
    known = _studies(root).get(study)
    settings = known.points[PUBLISHED].options if known and PUBLISHED in known.points else ()
    of_method = [option for option in settings if re.match(rf'{re.escape(run["methods"])}:', option)]
    return bool(run['options'] or of_method)


@functools.cache
def teacher_accuracies(root: Path) -> dict[str, dict[str, float]]:
    """Return the accuracies of the teachers that we trained, by study and by the name of their folder."""
    return {
        study: {teacher['teacher']: teacher['accuracy'] for teacher in results['teachers']}
        for study, results in _results(root).items()
    }
