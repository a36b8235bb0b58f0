#!/usr/bin/env python3
"""Train a study of docs/results.md: its teachers, then its cells, several at a time.

    run_study.py STUDY                                      all of it
    run_study.py STUDY --points published --methods icd     a part: these numbers
    run_study.py --list

Teachers come to work_dirs/NETWORK_DATA; one whose checkpoint is there is taken as it is. The cells come to
WORK_DIR/STUDY/POINT/METHODS/PAIR/seed_S. The runner can be stopped at any time: the same command goes on where it
ended. --keep FOLDER copies what the tables need of each finished training, its logs and settings, to FOLDER/STUDY, from
which tools/benchmarks/collect_study.py makes tables and figures. What was kept can be put back into WORK_DIR.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import run_trials
import step_arithmetic
from mmengine.config import Config
from studies import STUDIES, Study, teacher_of

from icd_mmrazor import benchmark
from icd_mmrazor.utils.command_line import run
from icd_mmrazor.utils.errors import SettingError, UserError
from icd_mmrazor.utils.files import write_whole
from icd_mmrazor.utils.locks import locked
from icd_mmrazor.utils.progress import Progress
from icd_mmrazor.utils.trial_pool import run_trials as run_pool
from icd_mmrazor.utils.trials import Trial

TOOLS = Path(__file__).resolve().parents[1]
COLLECT = Path(__file__).with_name('collect_study.py')
KEPT = ('result.json', 'trial.json', '*/vis_data/scalars.json')
SITTINGS = 'sittings.json'


class Teacher(Trial):
    """A network trained on the labels alone, with seed 0; its pairs find it in ``work_dirs``."""

    def __init__(self, name: str) -> None:
        config = benchmark.BASE.parent / 'vanilla' / f'{name}.py'
        epochs = Config.fromfile(config).train_cfg.max_epochs
        folder = Path('work_dirs', name).resolve()
        command = [sys.executable, TOOLS / 'train.py', config, '--work-dir', folder, '--resume']
        super().__init__(f'teacher {name}', folder, [*command, '--cfg-options', 'randomness.seed=0'], epochs)
        self.checkpoint = folder / f'epoch_{epochs}.pth'


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', nargs='?', metavar='STUDY', help=', '.join(STUDIES))
    parser.add_argument('--list', action='store_true', help='show the studies, their points and numbers of trainings')
    parser.add_argument('--points', nargs='+', metavar='POINT', help='only these points')
    parser.add_argument('--methods', nargs='+', metavar='METHODS', help='only these methods')
    parser.add_argument('--pairs', nargs='+', metavar='PAIR', help='only these pairs')
    parser.add_argument('--seeds', nargs='+', type=int, metavar='SEED', help="default: the study's")
    parser.add_argument('--gpus', metavar='0,1', help='run a cell at a time on each of these GPUs (default: the CPU)')
    parser.add_argument('--jobs', type=int, metavar='N', help='on the CPU: run N cells at a time, sharing the cores')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/studies'), help='default: %(default)s')
    parser.add_argument('--keep', type=Path, metavar='FOLDER', help='copy logs and settings of finished trainings')
    args = parser.parse_args(arguments)
    if not args.list and args.study is None:
        parser.error('STUDY is needed; --list shows them')
    return args


def show_list() -> None:
    for name, study in STUDIES.items():
        cells = sum(len(point.methods) for point in study.points.values()) * len(study.pairs) * len(study.seeds)
        print(f'{name}: {study.purpose}')
        print(f'  {len(study.teachers)} teachers, {cells} trainings of students; points: {", ".join(study.points)}')


def chosen(wanted: Sequence[Any] | None, known: Sequence[Any], kind: str) -> list[Any]:
    """Return those of a study's parts that are asked for, all if nothing is; refuse what it has not."""
    for one in wanted or []:
        benchmark.check_name(kind, one, known)
    return [one for one in known if not wanted or one in wanted]


def part_of(study: Study, args: argparse.Namespace) -> Study:
    """Return what is asked for of a study.

    Raises:
        SettingError: It has no such point, method or pair, or nothing is left.
    """
    points = {}
    methods = chosen(args.methods, list(dict.fromkeys(m for p in study.points.values() for m in p.methods)), 'method')
    for name in chosen(args.points, list(study.points), 'point'):
        point = study.points[name]
        if kept := tuple(method for method in point.methods if method in methods):
            points[name] = replace(point, methods=kept)
    if not points:
        raise SettingError(f'--points {" ".join(args.points)} are not trained with {" ".join(args.methods)}.')
    pairs = chosen(args.pairs, study.pairs, 'pair')
    needed = {teacher_of(pair) for pair in pairs}
    teachers = [name for name in study.teachers if name in needed]
    return replace(study, pairs=pairs, points=points, teachers=teachers, seeds=args.seeds or study.seeds)


def compose_cells(study: Study, folder: Path, front: Path) -> list[run_trials.Cell]:
    """Return all cells, the first seed of every point first."""
    cells = []
    for name, point in study.points.items():
        arguments = ['--methods', *point.methods, '--pairs', *study.pairs, '--seeds', *map(str, study.seeds)]
        arguments += ['--processes', str(point.processes), '--work-dir', str(folder / name), '--skip-unfit']
        arguments += ['--cfg-options', *point.options] if point.options else []
        of_point = run_trials.compose_cells(run_trials.parse_args(arguments), front)
        for cell in of_point:
            cell.name = f'{name} {cell.name}'
        cells += of_point
    return sorted(cells, key=lambda cell: study.seeds.index(int(cell.folder.name.removeprefix('seed_'))))


def train(trials: Sequence[Trial], slots: Sequence[dict[str, str]], lock: int) -> None:
    """Run trainings that have no result yet.

    Raises:
        UserError: Some failed.
    """
    done = sum(trial.result is not None for trial in trials)
    print(f'{len(trials)} trainings, {done} finished before; {len(slots)} at a time', flush=True)
    failed = run_pool(trials, slots, Progress(trials, len(slots), seconds=60), keep_open=[lock])
    if failed:
        count = f'{len(failed)} of {len(trials)} trainings failed; the same command tries them again.'
        raise UserError('\n\n'.join([count, *(trial.failure for trial in failed)]))


def keep(source: Path, target: Path) -> None:
    """Copy the logs and the settings of a finished training."""
    files = [file for pattern in KEPT for file in source.glob(pattern)]
    # the config, but not that of the exported student
    files += [file for file in source.glob('*.py') if file.name != 'student.py']
    for file in files:
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


@contextmanager
def sitting(folder: Path | None) -> Iterator[list[Trial]]:
    """Keep what is finished at the end, with the machine, the time and the commit; also where it is stopped.

    Args:
        folder: Of the study, or None to keep nothing.

    Yields:
        A list to put the study's trials into.
    """
    begin, trials = time.monotonic(), []
    try:
        yield trials
    finally:
        if folder:
            keep_all([trial for trial in trials if trial.result], folder, round(time.monotonic() - begin))


def keep_all(trials: Sequence[Trial], folder: Path, seconds: int) -> None:
    """Keep finished trainings, and note when and on what those were trained that are new.

    Args:
        trials: The finished ones, also of earlier sittings.
        folder: Of the study.
        seconds: How long this sitting has taken.
    """
    for trial in trials:
        keep(trial.folder, folder / where(trial))
    file = folder / SITTINGS
    sittings = json.loads(file.read_text()) if file.is_file() else []
    before = {name for record in sittings for name in record['trained']}
    if trained := sorted({str(where(trial)) for trial in trials} - before):
        record = dict(
            date=date.today().isoformat(),
            commit=commit(),
            seconds=seconds,
            machine=step_arithmetic.machine_facts('cpu'),
            trained=trained,
        )
        write_whole(json.dumps([*sittings, record], indent=1) + '\n', file)


def where(trial: Trial) -> Path:
    """Return the place of a training in the folder of its study."""
    if isinstance(trial, Teacher):
        return Path('teachers', trial.folder.name)
    return Path(*trial.folder.parts[-4:])


def commit() -> str:
    """Return the commit of these tools, or that there is none; what has changed since is said by a ``-dirty``."""
    command = ['git', 'describe', '--always', '--dirty', '--exclude=*']
    process = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False)
    return process.stdout.strip() or 'no git clone'


def main(arguments: Sequence[str] | None = None, front: Path = run_trials.TRAIN) -> None:
    args = parse_args(arguments)
    if args.list:
        show_list()
        return
    benchmark.check_name('study', args.study, list(STUDIES))
    study = part_of(STUDIES[args.study], args)
    run_trials.slots_for(args.gpus, args.jobs)
    folder = (args.work_dir / args.study).resolve()
    teachers = [Teacher(name) for name in study.teachers]
    missing = [teacher for teacher in teachers if not teacher.checkpoint.is_file()]
    kept = args.keep / args.study if args.keep else None
    with ExitStack() as stack:
        lock = stack.enter_context(locked(folder))
        trials = stack.enter_context(sitting(kept))
        trials += teachers
        if missing:
            print(f'teachers: {", ".join(str(teacher.folder) for teacher in missing)}')
            # they differ in size: on the CPU one after another, with all cores
            train(missing, run_trials.slots_for(args.gpus, None if args.gpus else 1), lock)
        cells = compose_cells(study, folder, front)
        problems = [problem for cell in cells if (problem := cell.problem())]
        if problems:
            raise run_trials.refusal([*problems, 'Give another --work-dir, or delete the folder.'])
        trials += cells
        for processes in sorted({point.processes for point in study.points.values()}):
            slots = run_trials.slots_for(args.gpus, args.jobs, processes)
            train([cell for cell in cells if cell.processes == processes], slots, lock)
    if kept:
        print(f'logs and settings: {kept}. Tables and figures:\n  {sys.executable} {COLLECT} {args.keep}')


if __name__ == '__main__':
    run(main)
