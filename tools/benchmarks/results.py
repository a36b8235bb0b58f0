"""Results of studies: collected from work folders, kept in one file, looked up by tables."""

import json
import statistics
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError

from studies import PUBLISHED, STUDIES, Point, Study, teacher_of

NOT_RUN = 'not run'
MANY = 10  # methods in a table in the order of its study
KINDS = ('sessions', 'teachers', 'runs')  # what is known of a study


def read(source: Path) -> dict[str, Any]:
    """Read the results of studies from the file that holds them, or collect them from the --work-dir of run.py."""
    try:
        if source.is_file():
            found = json.loads(source.read_text())
            return {name: {kind: study[kind] for kind in KINDS} for name, study in found.items()}
        folders = [folder for folder in sorted(source.iterdir()) if any(folder.glob('*/*/**/result.json'))]
        return {folder.name: collect(folder) for folder in folders}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError(f'{source} cannot be read ({error!r}). Give the --work-dir of run.py, or --json.') from error


def collect(folder: Path) -> dict[str, Any]:
    """Collect the results of a study; sessions are listed once."""
    sessions: dict[str, dict] = {}
    lists: dict[str, list[dict]] = {'teachers': [], 'runs': []}
    for file in sorted(folder.rglob('result.json')):
        result = json.loads(file.read_text())
        session = result.pop('session')
        started = session['started']
        ended = result.pop('ended', started)  # a result of version 0.1 has the minutes
        known = sessions.setdefault(started, {'minutes': 0, **session, 'trainings': 0})
        minutes = (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds() / 60
        known['minutes'] = max(known['minutes'], round(minutes, 2))
        known['trainings'] += 1
        lists['teachers' if 'teacher' in result else 'runs'].append({**result, 'session': started})
    return {'sessions': [sessions[started] for started in sorted(sessions)], **lists}


def dump(results: dict[str, Any]) -> str:
    """Return results as JSON with one line for each run."""
    studies = []
    for name, study in results.items():
        lists = [
            f'  {json.dumps(kind)}: [\n' + ',\n'.join(f'   {json.dumps(item)}' for item in items) + '\n  ]'
            for kind, items in study.items()
        ]
        studies.append(f' {json.dumps(name)}: {{\n' + ',\n'.join(lists) + '\n }')
    return '{\n' + ',\n'.join(studies) + '\n}\n'


class Results:
    """The results of a study; there are none if it was not run."""

    def __init__(self, name: str, study: Study, found: dict[str, Any]) -> None:
        self.name = name
        self.study = study
        self.sessions = found.get('sessions', [])
        self._teachers = {teacher['teacher']: teacher['accuracy'] for teacher in found.get('teachers', [])}
        self._runs: dict[tuple[str, str, str], list[dict]] = {}
        for run in found.get('runs', []):
            self._runs.setdefault((run['point'], run['methods'], run['pair']), []).append(run)
        for key, runs in self._runs.items():
            if any((run['epochs'], run['options']) != (runs[0]['epochs'], runs[0]['options']) for run in runs):
                raise SettingError(f'the seeds of {" ".join(key)} were trained with different options.')
        published = study.points.get(PUBLISHED)
        if published and len(published.methods) > MANY:  # the best on the first pair first
            means = {methods: self.mean(PUBLISHED, methods, study.pairs[0]) or 0.0 for methods in published.methods}
            published = replace(published, methods=tuple(sorted(means, key=means.__getitem__, reverse=True)))
            self.study = replace(study, points={**study.points, PUBLISHED: published})

    def runs(self, point: str, methods: str, pair: str) -> list[dict]:
        """Return the finished runs of a cell of a table, by their seeds."""
        return sorted(self._runs.get((point, methods, pair), []), key=lambda run: run['seed'])

    def mean(self, point: str, methods: str, pair: str) -> float | None:
        runs = self.runs(point, methods, pair)
        return statistics.mean(run['accuracy'] for run in runs) if runs else None

    def accuracy(self, point: str, methods: str, pair: str) -> str:
        """Format the accuracy of a cell: mean, spread, and the seeds if they are not those of the study."""
        runs = self.runs(point, methods, pair)
        if not runs:
            return NOT_RUN
        values, seeds = [run['accuracy'] for run in runs], [run['seed'] for run in runs]
        spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
        others = '' if seeds == sorted(self.study.seeds) else f' (seed{"s" * (len(seeds) > 1)} {str(seeds)[1:-1]})'
        return f'{statistics.mean(values):.2f}{spread}{others}'

    def minutes(self, point: str, methods: str, pair: str) -> str:
        """Format the mean time of the trainings of a cell, without resumed ones, of which the time is not known."""
        seconds = [run['seconds'] for run in self.runs(point, methods, pair) if not run['resumed']]
        return f'{statistics.mean(seconds) / 60:.1f}' if seconds else ''

    def teacher(self, pair: str) -> float | None:
        return self._teachers.get(teacher_of(pair))

    def teacher_passes(self) -> list[str]:
        """Return a sentence on how often the teacher was run, if there are trainings with a teacher cache."""
        counted = [run for runs in self._runs.values() for run in runs if run.get('teacher_asked')]
        asked, images = (sum(run[name] for run in counted) for name in ('teacher_asked', 'teacher_images'))
        share = f'{images:,} images instead of {asked:,} ({100 * images / max(1, asked):.1f} %)'
        return [f'In {len(counted)} trainings with a teacher cache, the teacher ran on {share}.'] if counted else []

    def notes(self) -> list[str]:
        """Return the options of the runs, for a study whose points do not say them."""
        runs = [run for runs in self._runs.values() for run in runs if run['options'] and self.name not in STUDIES]
        return sorted({f'- {r["methods"]} on {r["pair"]}: --cfg-options {" ".join(r["options"])}' for r in runs})


def studies_in(found: dict[str, Any]) -> dict[str, Results]:
    """Return the results of all studies, including those that were not run and those of a user."""
    studies = dict(STUDIES)
    for name in found.keys() - STUDIES.keys():
        cells = [(run['methods'], run['pair'], run['seed']) for run in found[name]['runs']]
        methods, pairs, seeds = (list(dict.fromkeys(values)) for values in zip(*cells, strict=True))
        methods.sort(key=lambda methods: (methods != recipes.STUDENT_ALONE, methods.count('+'), methods))
        studies[name] = Study('', pairs, {PUBLISHED: Point(tuple(methods))}, seeds=seeds)
    return {name: Results(name, study, found.get(name, {})) for name, study in studies.items()}
