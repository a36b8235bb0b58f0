#!/usr/bin/env python3
"""Train a study of docs/results.md: its teachers, then its cells, several at a time.

    run_study.py STUDY                                      all of it
    run_study.py STUDY --points published --methods icd     a part: these numbers
    run_study.py --list

Teachers come to work_dirs/NETWORK_DATA; one whose checkpoint is there is taken as it is. The cells come to
WORK_DIR/STUDY/POINT/METHODS/PAIR/seed_S. The runner can be stopped at any time: the same command goes on where it
ended. --keep FOLDER copies what the tables need of each finished training, its logs and settings, to FOLDER/STUDY, from
which tools/benchmarks/collect_study.py makes tables and figures. To go on elsewhere, copy FOLDER/STUDY to WORK_DIR.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import run_trials
import step_arithmetic
from mmengine.config import Config
from sittings import Sitting
from studies import STUDIES, Study, teacher_of

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.utils.locks import locked
from icd_mmrazor.utils.method_names import own_names
from icd_mmrazor.utils.progress import Progress
from icd_mmrazor.utils.trial_pool import number_of_cores
from icd_mmrazor.utils.trial_pool import run_trials as run_pool
from icd_mmrazor.utils.trials import Trial

TOOLS = Path(__file__).resolve().parents[1]
COLLECT = Path(__file__).with_name('collect_study.py')


class Teacher(Trial):
    """A network trained on the labels alone, with seed 0; its pairs find it in ``work_dirs``."""

    def __init__(self, name: str) -> None:
        config = recipes.BASE.parent / 'vanilla' / f'{name}.py'
        epochs = Config.fromfile(config).train_cfg.max_epochs
        folder = Path('work_dirs', name).resolve()
        command = [sys.executable, TOOLS / 'train.py', config, '--work-dir', folder, '--resume']
        super().__init__(f'teacher {name}', folder, [*command, '--cfg-options', 'randomness.seed=0'], epochs)
        self.checkpoint = folder / f'epoch_{epochs}.pth'

    @property
    def missing(self) -> bool:
        """Whether it must be trained, or what this tool began must be ended; a checkpoint from elsewhere is taken."""
        return not self.checkpoint.is_file() or (self.log.is_file() and self.result is None)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', nargs='?', metavar='STUDY', help=', '.join(STUDIES))
    parser.add_argument('--list', action='store_true', help='show the studies, their points and numbers of trainings')
    parser.add_argument('--points', nargs='+', metavar='POINT', help='only these points')
    parser.add_argument('--methods', nargs='+', type=own_names, metavar='METHODS', help='only these methods')
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
        print(f'  teachers: {len(study.teachers)}, trainings of students: up to {cells}')
        print(f'  points: {", ".join(study.points)}')


def chosen(wanted: Sequence[Any] | None, known: Sequence[Any], kind: str) -> list[Any]:
    """Return those of a study's parts that are asked for, all if nothing is; refuse what it has not."""
    for one in wanted or []:
        recipes.check_name(kind, one, known)
    return [one for one in known if not wanted or one in wanted]


def is_for(option: str, methods: Sequence[str]) -> bool:
    """Return whether an option, ``KEY=VALUE`` or ``METHODS:KEY=VALUE``, is for any of these methods."""
    of_methods, colon, _ = option.partition('=')[0].rpartition(':')
    return not colon or of_methods in methods


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
            options = tuple(option for option in point.options if is_for(option, kept))
            points[name] = replace(point, methods=kept, options=options)
    if not points:
        raise SettingError(f'--points {" ".join(args.points)} are not trained with {" ".join(args.methods)}.')
    pairs = chosen(args.pairs, study.pairs, 'pair')
    return replace(study, pairs=pairs, points=points, seeds=args.seeds or study.seeds)


def compose_cells(study: Study, folder: Path, front: Path, teachers: Sequence[Teacher] = ()) -> list[run_trials.Cell]:
    """Return all cells, the first seed of every point first.

    Args:
        study: What is asked for.
        folder: Its work folder.
        front: What trains a cell.
        teachers: Those that will be there.

    Raises:
        SettingError: A seed is out of range, a teacher is missing, or a cell's folder holds something else.
    """
    cells: list[run_trials.Cell] = []
    for name, point in study.points.items():
        arguments = ['--methods', *point.methods, '--pairs', *study.pairs, '--seeds', *map(str, study.seeds)]
        arguments += ['--processes', str(point.processes), '--work-dir', str(folder / name), '--skip-unfit']
        arguments += ['--cfg-options', *point.options] if point.options else []
        coming = {teacher.checkpoint for teacher in teachers}
        of_point = run_trials.compose_cells(run_trials.parse_args(arguments), front, coming)
        for cell in of_point:
            cell.name = f'{name} {cell.name}'
        cells += of_point
    if problems := [problem for cell in cells if (problem := cell.problem())]:
        raise run_trials.refusal([*problems, 'Give another --work-dir, or delete the folder.'])
    return sorted(cells, key=lambda cell: study.seeds.index(int(cell.folder.name.removeprefix('seed_'))))


def train(
    trials: Sequence[Trial], slots: Sequence[dict[str, str]], locks: Sequence[int], sitting: Sitting
) -> list[Trial]:
    """Run trainings that have no result yet, and keep each when it has ended.

    Args:
        trials: The trainings.
        slots: The environment of each that runs at a time.
        locks: Of their folders.
        sitting: Notes and keeps them.

    Returns:
        Those that failed.
    """
    done = sum(trial.result is not None for trial in trials)
    print(f'trainings: {len(trials)}, finished before: {done}; {len(slots)} at a time', flush=True)
    progress = Progress(trials, len(slots), seconds=60)
    return run_pool(
        trials, slots, progress, keep_open=locks, finished=lambda trial: sitting.add(trial.folder, where(trial))
    )


def check(failed: Sequence[Trial], trials: Sequence[Trial]) -> None:
    """Refuse to go on where trainings failed.

    Raises:
        UserError: Some did.
    """
    if failed:
        count = f'{len(failed)} of {len(trials)} trainings failed; the same command tries them again.'
        raise UserError('\n\n'.join([count, *(trial.failure for trial in failed)]))


def where(trial: Trial) -> Path:
    """Return the place of a training in the folder of its study."""
    if isinstance(trial, Teacher):
        return Path('teachers', trial.folder.name)
    return Path(*trial.folder.parts[-4:])


def facts(gpus: str | None, slots: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Return on what a sitting runs, and how many trainings of students at a time."""
    machine = step_arithmetic.machine_facts('cuda' if gpus else 'cpu')
    return {'machine': machine, 'gpus': gpus, 'cores used': number_of_cores(), 'at a time': len(slots)}


def main(arguments: Sequence[str] | None = None, front: Path = run_trials.TRAIN) -> None:
    args = parse_args(arguments)
    if args.list:
        show_list()
        return
    recipes.check_name('study', args.study, list(STUDIES))
    study = part_of(STUDIES[args.study], args)
    slots = {
        processes: run_trials.slots_for(args.gpus, args.jobs, processes)
        for processes in sorted({point.processes for point in study.points.values()})
    }
    for option, folder in (('--work-dir', args.work_dir), ('--keep', args.keep)):
        if folder and not all(place.is_dir() for place in (folder, folder / args.study) if place.exists()):
            raise SettingError(f'{option} {folder} is a file, or holds one called {args.study}. Give a folder.')
    folder = (args.work_dir / args.study).resolve()
    kept = args.keep / args.study if args.keep else None
    teachers = [Teacher(name) for name in study.teachers]
    with ExitStack() as stack:
        lock = stack.enter_context(locked(folder))
        cells = compose_cells(study, folder, front, teachers)
        sitting = Sitting(folder, kept, facts(args.gpus, slots[min(slots)]))
        for trial in cells:
            if trial.result:
                sitting.keep(trial.folder, where(trial))
        waiting = {cell.kind for cell in cells if cell.result is None and cell.methods != recipes.STUDENT_ALONE}
        needed = {teacher_of(pair) for pair in waiting}
        missing = [teacher for teacher in teachers if teacher.folder.name in needed and teacher.missing]
        for teacher in teachers:
            if teacher not in missing and teacher.checkpoint.is_file():
                sitting.keep(teacher.folder, where(teacher))
        if missing:
            print(f'teachers: {", ".join(str(teacher.folder) for teacher in missing)}')
            locks = [lock, *(stack.enter_context(locked(teacher.folder)) for teacher in missing)]
            # they differ in size: on the CPU one after another, with all cores
            alone = run_trials.slots_for(args.gpus, None if args.gpus else 1)
            check(train(missing, alone, locks, sitting), missing)
        failed = []
        for processes, of_processes in slots.items():
            group = [cell for cell in cells if cell.processes == processes]
            failed += train(group, of_processes, [lock], sitting)
        check(failed, cells)
    if kept:
        print(f'logs and settings: {kept}. Tables and figures:\n  {sys.executable} {COLLECT} {args.keep}')


if __name__ == '__main__':
    run(main)
