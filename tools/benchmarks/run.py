#!/usr/bin/env python3
"""Train a study: its teachers first, then each method on each pair with each seed, several trainings at a time.

    run.py STUDY                                           a study of docs/results.md
    run.py STUDY --points published --methods icd          a part of it
    run.py --methods kd icd+kd --pairs PAIR --seeds 0 1    your own
    run.py STUDY --slurm FOLDER [--gpus 0] [--jobs N]      write job arrays for a Slurm cluster, N trainings at a time
    run.py --list

Teachers are trained in work_dirs/NETWORK_DATA, unless their checkpoint is there; everything else is trained in
WORK_DIR/STUDY/POINT/METHODS/PAIR/seed_S by tools/benchmarks/train.py. It can be stopped at any time: repeat the command
to resume. tools/benchmarks/table.py makes tables of what has finished.

--cfg-options KEY=VALUE changes a setting of every training. The student alone gets the settings of its network,
model.architecture.X, as model.X, and none of the teacher's and the distiller's. METHODS:KEY=VALUE changes a setting of
the trainings of METHODS only, and takes precedence: crd:optim_wrapper.optimizer.lr=0.02.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from icd_mmrazor import recipes
from icd_mmrazor.checkpoints.writing import write_json
from icd_mmrazor.configuration.changes import settings_of
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import positive_int
from icd_mmrazor.launch.command_line import run as run_tool
from icd_mmrazor.launch.signals import Stopped
from icd_mmrazor.machine import cores
from icd_mmrazor.workflow.composition import configured
from icd_mmrazor.workflow.lock import FILE as LOCK

from arrays import write_arrays
from caches import OF_CACHE, share_caches
from mmengine.config import Config
from studies import PUBLISHED, STUDIES, Point, Study, teacher_of
from trainings import ConfigTraining, Training, check_failures, machine, run_all, slots_for

TOOLS = Path(__file__).resolve().parents[1]
FRONT = TOOLS / 'benchmarks' / 'train.py'
STUDENT = 'model.architecture.'
# settings of the model that the student alone does not have
OF_DISTILLATION = ('teacher', 'random_teacher', 'distiller', 'student_trainable', 'calculate_student_loss')
# settings that the runner gives each training
RESERVED = ('randomness.seed', 'work_dir', 'resume', 'launcher')
SHOWN_DIFFERENCES = 4


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', nargs='?', metavar='STUDY', help=', '.join(STUDIES))
    parser.add_argument('--list', action='store_true', help='show the studies, their points and numbers of trainings')
    parser.add_argument('--points', nargs='+', metavar='POINT', help='only these points of a study')
    methods = dict(nargs='+', type=recipes.canonical_name, metavar='METHODS')
    parser.add_argument('--methods', **methods, help='icd icd+kd fitnet ...; dcd is icd')
    parser.add_argument('--pairs', nargs='+', metavar='PAIR', help='res32x4_res8x4_cifar100 ...')
    parser.add_argument('--seeds', nargs='+', type=int, metavar='SEED', help="default: the study's; of your own: 0")
    parser.add_argument('--gpus', metavar='0,1', help='train on these GPUs, one training on each (default: on the CPU)')
    parser.add_argument(
        '--jobs', type=positive_int, metavar='N', help='on the CPU, or with --slurm: N trainings at a time'
    )
    parser.add_argument('--processes', type=positive_int, default=1, metavar='N', help='of each training of your own')
    parser.add_argument('--skip-unfit', action='store_true', help='leave out methods that do not fit a pair')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='[METHODS:]KEY=VALUE', help='see above')
    alone = 'run the teacher in every training, rather than once for all (WORK_DIR/STUDY/teacher_caches)'
    parser.add_argument('--no-teacher-cache', action='store_true', help=alone)
    most = 'the most that the cache of a teacher and a dataset may take (default: %(default)g)'
    parser.add_argument('--max-cache-size', type=float, default=16.0, metavar='GB', help=most)
    parser.add_argument('--teachers-only', action='store_true', help='train the teachers of a study, and no student')
    arrays = 'train nothing here: write lists of the trainings and scripts for sbatch into FOLDER'
    parser.add_argument('--slurm', type=Path, metavar='FOLDER', help=arrays)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/studies'), help='default: %(default)s')
    args = parser.parse_args(arguments)
    if not args.list and not args.study and not (args.methods and args.pairs):
        parser.error('give STUDY, or --methods and --pairs; --list shows the studies')
    if args.study and (args.processes != 1 or args.cfg_options):
        parser.error('--processes and --cfg-options are for a study of your own; those of STUDY are fixed')
    if args.points and not args.study:
        parser.error('--points is for STUDY; a study of your own has one point')
    return args


def show_list() -> None:
    for name, study in STUDIES.items():
        count = sum(len(point.methods) for point in study.points.values()) * len(study.pairs) * len(study.seeds)
        print(f'{name}: {study.purpose}')
        print(f'  teachers: {len(study.teachers)}, trainings of students: up to {count}')
        print(f'  points: {", ".join(study.points)}')


def requested(args: argparse.Namespace) -> Study:
    """Return the study to run, or the part of it that is asked for."""
    if not args.study:
        chosen([name for methods in args.methods for name in methods.split('+')], recipes.method_names(), 'method')
        chosen(args.pairs, recipes.pair_names(), 'pair')
        check_options(args.cfg_options, args.methods)
        point = Point(tuple(dict.fromkeys(args.methods)), tuple(args.cfg_options), args.processes)
        return Study('', list(dict.fromkeys(args.pairs)), {PUBLISHED: point}, seeds=args.seeds or [0])
    recipes.check_name('study', args.study, list(STUDIES))
    study = STUDIES[args.study]
    methods = chosen(args.methods, list(dict.fromkeys(m for p in study.points.values() for m in p.methods)), 'method')
    points = {}
    for name in chosen(args.points, list(study.points), 'point'):
        point = study.points[name]
        if kept := tuple(method for method in point.methods if method in methods):
            points[name] = replace(point, methods=kept)
    if not points:
        raise SettingError(f'--points {" ".join(args.points)} do not have --methods {" ".join(args.methods)}.')
    return replace(study, pairs=chosen(args.pairs, study.pairs, 'pair'), points=points, seeds=args.seeds or study.seeds)


def chosen(names: Sequence[str] | None, known: Sequence[str], kind: str) -> list[str]:
    """Return those of the known names that are given, or all if none is."""
    for name in names or []:
        recipes.check_name(kind, name, known)
    return [name for name in known if not names or name in names]


def check_options(options: Sequence[str], methods: Sequence[str]) -> None:
    """Refuse options that no training can have."""
    for option in options:
        prefix, key, _ = parts_of(option)
        if prefix is not None and prefix not in methods:
            raise SettingError(f'--cfg-options {option}: --methods has no {prefix!r}, but {", ".join(methods)}.')
        if key in RESERVED:
            raise SettingError(f'--cfg-options {option}: each training has its own {key}. Leave it out; see --seeds.')


def parts_of(option: str) -> tuple[str | None, str, str]:
    """Split ``METHODS:KEY=VALUE``, or ``KEY=VALUE`` of all methods."""
    name, equals, value = option.partition('=')
    prefix, colon, key = name.rpartition(':')
    if not equals or not key:
        raise SettingError(f'--cfg-options {option}: give KEY=VALUE, or METHODS:KEY=VALUE.')
    return recipes.canonical_name(prefix) if colon else None, key, value


def options_for(methods: str, options: Sequence[str]) -> list[str]:
    """Return the ``--cfg-options`` of the trainings of a combination of methods."""
    found: dict[str, str] = {}
    for of in (None, methods):  # those of these methods alone take precedence
        for prefix, key, value in map(parts_of, options):
            if prefix != of:
                continue
            if methods == recipes.STUDENT_ALONE:
                if key.startswith(STUDENT):
                    key = f'model.{key.removeprefix(STUDENT)}'
                elif key.removeprefix('model.').startswith(OF_DISTILLATION) and prefix is None:
                    continue
            found[key] = f'{key}={value}'
    return list(found.values())


class Cell(NamedTuple):
    """What is trained with each seed."""

    point: str
    methods: str
    pair: str
    cfg: Config
    options: list[str]
    processes: int


class StudentTraining(Training):
    """A training of a student; ``trial.json`` in its folder is the config that was asked for."""

    def __init__(self, cell: Cell, seed: int, root: Path) -> None:
        folder = root / cell.point / cell.methods / cell.pair / f'seed_{seed}'
        command = [sys.executable, FRONT, cell.methods, cell.pair, '--work-dir', folder, '--resume']
        command += ['--processes', cell.processes, '--cfg-options', f'randomness.seed={seed}', *cell.options]
        facts = dict(point=cell.point, methods=cell.methods, pair=cell.pair, seed=seed, options=cell.options)
        name = f'{cell.point} {cell.methods} {cell.pair} seed {seed}'
        super().__init__(name, folder, command, cell.cfg.train_cfg.max_epochs, facts)
        self.cell = cell
        requested = {**cell.cfg.to_dict(), 'processes': cell.processes}
        requested['randomness'] = {**requested['randomness'], 'seed': seed}
        # as JSON returns it: tuples become lists
        self.requested = json.loads(json.dumps(requested, default=str))

    def train(self, environment: Mapping[str, str]) -> None:
        write_json(self.requested, self.folder / 'trial.json')
        super().train(environment)

    @property
    def teacher(self) -> str | None:
        """The name of the network that teaches, None for the student alone."""
        return None if self.cell.methods == recipes.STUDENT_ALONE else teacher_of(self.cell.pair)

    def problem(self) -> str | None:
        """Return why the folder cannot be used, or None."""
        file = self.folder / 'trial.json'
        if not file.is_file():
            used = self.folder.exists() and any(file.name != LOCK for file in self.folder.iterdir())
            return f'{self.folder} is not empty and was not created by this tool.' if used else None
        try:
            found, requested = (dict(settings_of(each)) for each in (json.loads(file.read_text()), self.requested))
        except ValueError:
            return f'{file} is damaged.'
        names = sorted({*found, *requested} - {*OF_CACHE})
        names = [key for key in names if found.get(key, ...) != requested.get(key, ...)][:SHOWN_DIFFERENCES]
        shown = [f'{key} is {found.get(key)} there, {requested.get(key)} here' for key in names]
        if shown:
            return f'{self.folder} holds a training with another config: {"; ".join(shown)}.'
        return None if self.result else self.in_use()


class TeacherTraining(ConfigTraining):
    """A training of a network on the labels alone with seed 0, in the folder where its pairs look for it."""

    def __init__(self, name: str) -> None:
        config, folder = recipes.BASE.parent / 'vanilla' / f'{name}.py', Path('work_dirs', name).resolve()
        super().__init__(f'teacher {name}', config, folder, {'randomness.seed': 0}, teacher=name)

    @property
    def missing(self) -> bool:
        """Whether it must be trained, or its training resumed; a checkpoint from elsewhere is taken as it is."""
        return not self.checkpoint.is_file() or ((self.folder / 'train.log').is_file() and self.result is None)


def students_of(study: Study, root: Path, skip_unfit: bool) -> list[StudentTraining]:
    """Return the trainings of the students, the first seed of everything first; an error lists all problems."""
    problems, cells = [], []
    if wrong := [seed for seed in study.seeds if not 0 <= seed < 2**32]:
        raise SettingError(f'--seeds {wrong[0]}: give a number from 0 to 2^32 - 1.')
    for (point, settings), pair in itertools.product(study.points.items(), study.pairs):
        for methods in settings.methods:
            options = options_for(methods, settings.options)
            try:
                cfg = configured(pair, methods, options)
            except SettingError as error:
                # the published tables have no FSP where it does not fit
                if skip_unfit or study.teachers:
                    print(f'left out: {error}')
                else:
                    problems.append(f'{error} (--skip-unfit leaves it out)')
            else:
                cells.append(Cell(point, methods, pair, cfg, options, settings.processes))
    problems += [
        f'teacher {file}: there is no such file. Train it, convert a published one with '
        'tools/model_converters/repdistiller_to_mmpretrain.py, or name another: --cfg-options model.teacher_ckpt=FILE.'
        for file in missing_teachers(study, cells)
    ]
    trainings = [StudentTraining(cell, seed, root) for seed in dict.fromkeys(study.seeds) for cell in cells]
    problems += [problem for training in trainings if (problem := training.problem())]
    if problems or not trainings:
        raise SettingError('\n  '.join(['nothing was started:', *(problems or ['no training is left.'])]))
    return trainings


def missing_teachers(study: Study, cells: Sequence[Cell]) -> list[str]:
    """Return the teachers of the cells that neither exist nor are trained by the study."""
    coming = {TeacherTraining(name).checkpoint for name in study.teachers}
    files = dict.fromkeys(cell.cfg.model.get('teacher_ckpt') for cell in cells)
    local = [file for file in files if file and not file.startswith('https://')]
    return [file for file in local if not Path(file).expanduser().is_file() and Path(file).absolute() not in coming]


def new_session(gpus: str | None, slots: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Describe this call, for the results: when it started, its code and machine."""
    command = ['git', 'describe', '--always', '--dirty', '--exclude=*']
    commit = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False).stdout.strip()
    started = datetime.now(timezone.utc).isoformat()
    facts = dict(machine=machine(), cores_used=cores(), gpus=gpus, slots=len(slots))
    return dict(started=started, commit=commit or 'not a git clone', **facts)


def train(trainings: Sequence[Training], slots: Sequence[dict[str, str]], session: dict[str, Any]) -> None:
    """Run trainings; each result says in which session it was trained."""
    for training in trainings:
        training.facts['session'] = session
    finished = sum(training.result is not None for training in trainings)
    print(f'{len(trainings)} trainings, {finished} finished before; {len(slots)} at a time', flush=True)
    run_all(trainings, slots)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    if args.list:
        show_list()
        return
    study, name = requested(args), args.study or 'own'
    counts = sorted({point.processes for point in study.points.values()})
    # the GPUs of an array are on other machines
    gpus, jobs = (len(args.gpus.split(',')), None) if args.slurm and args.gpus else (None, args.jobs)
    slots = {processes: slots_for(args.gpus, jobs, processes, gpus) for processes in counts}
    root = (args.work_dir / name).resolve()
    place = next(place for place in (root, *root.parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise SettingError(f'--work-dir: {place} is not a folder that can be written. Give another.')
    students = students_of(study, root, args.skip_unfit)
    waiting = [student for student in students if student.result is None]
    needed = {student.teacher for student in (students if args.teachers_only else waiting)}
    teachers = [TeacherTraining(teacher) for teacher in study.teachers if teacher in needed]
    missing = [teacher for teacher in teachers if teacher.missing]
    if args.slurm and waiting:
        write_arrays(args, students, [teacher.facts['teacher'] for teacher in missing], max(counts))
        return
    session = new_session(args.gpus, slots[counts[0]])
    if missing:
        # they differ in size: on the CPU one after the other, with all cores
        train(missing, slots_for(args.gpus, None if args.gpus else 1), session)
        check_failures(missing)
    for teacher in teachers:
        if teacher.result:
            write_json(teacher.result, root / 'teachers' / teacher.folder.name / 'result.json')
    if args.teachers_only:
        return
    if not args.no_teacher_cache:
        share_caches(waiting, root / 'teacher_caches', args.max_cache_size)
    for processes in counts:
        train([student for student in students if student.cell.processes == processes], slots[processes], session)
    check_failures(students)
    print(f'all {len(students)} trainings are done. Tables:')
    print(f'  {sys.executable} {TOOLS / "benchmarks" / "table.py"} {args.work_dir}')


def start() -> None:
    """Run as a tool that SIGUSR1 ends, too: Slurm's warning before a time limit."""

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(number)

    def main_until_stopped() -> None:
        signal.signal(signal.SIGUSR1, stop)
        main()

    run_tool(main_until_stopped, 'Repeat the command to resume.')


if __name__ == '__main__':
    start()
