#!/usr/bin/env python3
"""Train a part of the benchmark: each method on each pair with each seed, several at a time.

Every cell is trained by tools/benchmarks/train.py in WORK_DIR/METHODS/PAIR/seed_S. The runner can be stopped at any
time: the same command goes on where it ended. tools/analysis/collect_results.py WORK_DIR makes the table.

--cfg-options KEY=VALUE changes a setting of every cell. A student alone gets those of its network,
model.architecture.X, as its model.X, and none of teacher and distiller. METHODS:KEY=VALUE changes it in the cells of
exactly these METHODS, and counts more:

    --methods ab icd+kd --cfg-options train_cfg.max_epochs=10 ab:model.distiller.initial_epochs=2
                                      ab:param_scheduler.begin=2 icd+kd:model.distiller.distillers.icd.embed_dims=64

Whatever is changed stands as a note in the table.
"""

import argparse
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from icd_mmrazor import recipes  # first: it says what to install where the stack is missing

# isort: split
import torch
from mmengine.config import Config

from icd_mmrazor.checkpoints.writing import write_json
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.utils.cell_options import check_options, merge_options, options_of
from icd_mmrazor.utils.locks import locked
from icd_mmrazor.utils.method_names import own_names
from icd_mmrazor.utils.progress import Progress
from icd_mmrazor.utils.trial_pool import number_of_cores, run_trials
from icd_mmrazor.utils.trials import Trial

TRAIN = Path(__file__).resolve().with_name('train.py')
COLLECT = Path(__file__).resolve().parents[1] / 'analysis' / 'collect_results.py'
SHOWN_DIFFERENCES = 4


class Cell(Trial):
    """One cell of the benchmark with one seed; its folder says in ``trial.json`` what was asked of it."""

    def __init__(
        self,
        methods: str,
        pair: str,
        seed: int,
        cfg: Config,
        work_dir: Path,
        options: Sequence[str],
        train: Path,
        processes: int = 1,
    ) -> None:
        folder = work_dir / methods / pair / f'seed_{seed}'
        command = [sys.executable, train, methods, pair, '--work-dir', folder, '--resume']
        command += ['--processes', processes] if processes > 1 else []
        command += ['--cfg-options', f'randomness.seed={seed}', *options]
        super().__init__(f'{methods} {pair} seed {seed}', folder, command, cfg.train_cfg.max_epochs, kind=pair)
        # as JSON gives it back: tuples as lists
        self.asked = json.loads(json.dumps(cfg.to_dict(), default=str))
        self.methods = methods
        self.processes = processes
        if processes > 1:
            self.asked['processes'] = processes
        self.options = list(options)

    def start(self, environment: Mapping[str, str], keep_open: Sequence[int] = ()) -> None:
        """Say in the folder what it holds, then start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # the options: for the table, which names them
        write_json({'cfg_options': self.options, **self.asked}, self.folder / 'trial.json')
        super().start(environment, keep_open)

    def problem(self) -> str | None:
        """Return why the folder cannot be used, or None if it can."""
        record = self.folder / 'trial.json'
        if not record.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.glob('[!.]*'))):
                return f'{self.folder} holds something that this tool did not begin.'
            return None
        try:
            there = json.loads(record.read_text())
            # other options may lead to the same configuration
            there.pop('cfg_options', None)
            there = flat(there)
        except (ValueError, AttributeError):
            return f'{record} is broken.'
        asked = flat(self.asked)
        differences = [
            f'{name} is {there.get(name, "not set")} there, {asked.get(name, "not set")} asked'
            for name in sorted(there.keys() | asked.keys())
            if there.get(name, ...) != asked.get(name, ...)
        ]
        if not differences:
            return None
        more = len(differences) - SHOWN_DIFFERENCES
        shown = '; '.join(differences[:SHOWN_DIFFERENCES]) + (f'; and {more} more' if more > 0 else '')
        return f'{self.folder} holds a run with another configuration: {shown}.'


def flat(values: Any, prefix: str = '') -> dict[str, Any]:
    """Return nested settings by their names with dots, as ``--cfg-options`` takes them."""
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in flat(inner, f'{prefix}.{key}' if prefix else str(key)).items()
    }


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--methods',
        nargs='+',
        required=True,
        type=own_names,
        metavar='METHODS',
        help='icd icd+kd fitnet ...; dcd is icd',
    )
    parser.add_argument('--pairs', nargs='+', required=True, metavar='PAIR', help='res32x4_res8x4_cifar100 ...')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], metavar='SEED', help='default: 0')
    parser.add_argument('--gpus', metavar='0,1', help='run a cell at a time on each of these GPUs (default: the CPU)')
    parser.add_argument('--jobs', type=int, metavar='N', help='on the CPU: run N cells at a time, sharing the cores')
    parser.add_argument(
        '--processes', type=int, default=1, metavar='N', help='train each cell in N processes, one a GPU (default: 1)'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/benchmark'), help='default: %(default)s')
    parser.add_argument('--skip-unfit', action='store_true', help='leave out the methods that do not fit a pair')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='[METHODS:]KEY=VALUE',
        help='change settings of every cell, or of those of METHODS; see above',
    )
    return parser.parse_args(arguments)


def check_names(kind: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return what is wrong with names, each with the nearest ones."""
    problems = []
    for name in given:
        try:
            recipes.check_name(kind, name, known)
        except SettingError as error:
            problems.append(str(error))
    return problems


def slots_for(gpus: str | None, jobs: int | None, processes: int = 1) -> list[dict[str, str]]:
    """Return the environment of each cell that runs at a time, in one process or several."""
    if processes < 1:
        raise SettingError(f'--processes {processes}: give a number from 1.')
    if jobs is not None and (gpus or jobs < 1):
        raise SettingError('--jobs is the number of cells at a time on the CPU, at least 1; with --gpus leave it out.')
    cores, available = number_of_cores(), torch.cuda.device_count()
    if gpus is None:
        jobs = jobs or min(4, max(1, cores // processes))
        threads = str(max(1, cores // (jobs * processes)))
        return [{'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': threads}] * jobs
    numbers = gpus.split(',')
    wrong = [number for number in numbers if not number.isdecimal() or int(number) >= available]
    if wrong or len(set(map(int, numbers))) < len(numbers):
        shown = f'0 to {available - 1}' if available else 'none'
        raise SettingError(f'--gpus {gpus}: give different numbers with commas between. The GPUs here: {shown}.')
    if len(numbers) % processes:
        raise SettingError(f'--gpus {gpus}: cells in {processes} processes need {processes} GPUs each.')
    # the numbers count the GPUs that this process sees
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    names = visible.split(',') if visible else [str(number) for number in range(available)]
    threads = str(max(1, cores // len(numbers)))
    groups = (numbers[first : first + processes] for first in range(0, len(numbers), processes))
    return [
        {'CUDA_VISIBLE_DEVICES': ','.join(names[int(number)] for number in group), 'OMP_NUM_THREADS': threads}
        for group in groups
    ]


def compose_cells(args: argparse.Namespace, train: Path, coming: Collection[Path] = ()) -> list[Cell]:
    """Return all cells, the first seed of every method and pair first.

    Args:
        args: The tool's arguments.
        train: What trains a cell.
        coming: Teachers' checkpoints that will be there, as absolute paths.

    Raises:
        SettingError: A name is unknown, a method does not fit a pair, or a teacher is missing; all cases are listed.
    """
    methods, pairs, seeds = (list(dict.fromkeys(values)) for values in (args.methods, args.pairs, args.seeds))
    single = dict.fromkeys(method for mixed in methods for method in mixed.split('+'))
    problems = check_names('pair', pairs, recipes.pair_names())
    problems += check_names('method', list(single), recipes.method_names())
    problems += [f'seed {seed}: give a number from 0 to 2^32 - 1.' for seed in seeds if not 0 <= seed < 2**32]
    if problems:
        raise refusal(problems)

    check_options(args.cfg_options, methods)
    configs: dict[tuple[str, str], Config] = {}
    unfit: list[str] = []
    wrong: list[str] = []
    for mixed, pair in itertools.product(methods, pairs):
        try:
            cfg = recipes.compose(pair, mixed.split('+'))
        except SettingError as error:
            unfit.append(str(error))
            continue
        try:
            merge_options(cfg, mixed, options_of(mixed, args.cfg_options))
        except SettingError as error:
            wrong.append(str(error))
        configs[mixed, pair] = cfg
    if wrong:
        # the same for each pair
        raise refusal(list(dict.fromkeys(wrong)))
    if unfit and args.skip_unfit:
        print('\n  '.join(['left out:', *unfit]))
        unfit = []
    wanted = Counter(cfg.model.get('teacher_ckpt') for cfg in configs.values() if lacks_teacher(cfg, coming))
    problems = [*unfit, *(['--skip-unfit leaves these out.'] if unfit else [])] + [
        f'teacher {file}: there is no such file ({count} methods x pairs want it). Train it, convert a published one '
        'with tools/model_converters/repdistiller_to_mmpretrain.py, or name another: --cfg-options '
        'model.teacher_ckpt=FILE.'
        for file, count in wanted.items()
    ]
    if problems or not configs:
        raise refusal(problems or ['no cell is left.'])
    cells = []
    for seed, ((mixed, pair), cfg) in itertools.product(seeds, configs.items()):
        cfg.merge_from_dict({'randomness.seed': seed})
        given = options_of(mixed, args.cfg_options)
        cells.append(Cell(mixed, pair, seed, cfg, args.work_dir.resolve(), given, train, args.processes))
    return cells


def lacks_teacher(cfg: Config, coming: Collection[Path]) -> bool:
    if 'teacher' not in cfg.model or cfg.model.get('random_teacher'):
        return False
    file = cfg.model.get('teacher_ckpt') or ''
    path = Path(file).expanduser()
    return not file.startswith('https://') and not path.is_file() and path.absolute() not in coming


def refusal(problems: Sequence[str]) -> SettingError:
    return SettingError('\n  '.join(['nothing was started:', *problems]))


def main(arguments: Sequence[str] | None = None, train: Path = TRAIN) -> None:
    args = parse_args(arguments)
    slots = slots_for(args.gpus, args.jobs, args.processes)
    cells = compose_cells(args, train)
    if args.work_dir.is_file():
        raise SettingError(f'--work-dir {args.work_dir} is a file. Give a folder.')
    with locked(args.work_dir.resolve()) as lock:
        problems = [problem for cell in cells if (problem := cell.problem())]
        if problems:
            raise refusal([*problems, 'Give the settings of that run, another --work-dir, or delete the folder.'])
        before = sum(cell.result is not None for cell in cells)
        where = f'GPUs {args.gpus}' if args.gpus else 'the CPU'
        print(f'{len(cells)} cells in {args.work_dir}, {before} finished before; {len(slots)} at a time on {where}')
        if not args.gpus and torch.cuda.is_available():
            print(f'this machine shows {torch.cuda.device_count()} GPUs; --gpus takes them')
        failed = run_trials(cells, slots, Progress(cells, len(slots), seconds=60), keep_open=[lock])
    if failed:
        count = f'{len(failed)} of {len(cells)} cells failed; the same command tries them again.'
        raise UserError('\n\n'.join([count, *(cell.failure for cell in failed)]))
    print(f'all {len(cells)} cells are done. The table:\n  {sys.executable} {COLLECT} {args.work_dir}')


if __name__ == '__main__':
    run(main)
