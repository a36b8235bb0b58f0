#!/usr/bin/env python3
"""Measure one training step: ours against a plain loop as research scripts have it.

    step_time.py                                              both pairs at batch 64, in a few minutes
    step_time.py --batch-sizes 64 256 1024 4096 --scaling --ranks 1 2
    step_time.py --contender unfolded model.fold_teacher_norms=False

The loops are stepped in turn in one process, round by round, so that whatever else the machine does meets all of them;
ratios are taken within a round. A step is all of it, the next batch included. Images and weights are random.

plain     eager, float32, torchvision's transforms an image at a time, teacher and student in full (plain_loop.py)
defaults  what tools/train.py runs with a config of the benchmark
fast      with bf16 for teacher and student, and on a GPU (or with --compile) torch.compile

Writes step_time.json (all numbers), step_time.md (tables), step_time.png and step_time.svg into a folder.
"""

import os

# before torch is there: its tracer says at each start that it starts, and of each tensor that it does not know it
os.environ.setdefault('KINETO_LOG_LEVEL', '99')
os.environ.setdefault('TORCH_CPP_LOG_LEVEL', 'ERROR')

import argparse
import gc
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import icd_mmrazor  # noqa: F401 (first: it says what to install where the stack is missing)

# isort: split
import plain_loop
import step_arithmetic
import step_growth
import step_measures as measures
import step_report
import torch
from mmengine.device import get_device
from runner_loop import composed
from step_pair import measure_pair

from icd_mmrazor.checkpoints.writing import atomic_write, write_json
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run as run_tool
from icd_mmrazor.utils.method_names import split_methods

PLAIN, DEFAULTS, FAST = 'plain', 'defaults', 'fast'
PAIRS = ['res32x4_res8x4_cifar100', 'wrn40-2_wrn16-2_cifar100']


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pairs', nargs='+', default=PAIRS, metavar='PAIR', help='default: %(default)s')
    parser.add_argument('--methods', default='icd', help='a method, or several: icd+kd (default: icd)')
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=[64], metavar='N', help='default: 64')
    parser.add_argument(
        '--contender',
        nargs='+',
        action='append',
        default=[],
        metavar=('NAME', 'KEY=VALUE'),
        help='one more: the defaults with these settings of the config changed; may be given several times',
    )
    parser.add_argument(
        '--leave-out', nargs='+', default=[], choices=(PLAIN, DEFAULTS, FAST), help='contenders that are not measured'
    )
    parser.add_argument('--compile', action='store_true', help='let "fast" use torch.compile on a CPU too')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.add_argument('--threads', type=int, help="torch's threads on the CPU (default: torch's choice)")
    parser.add_argument('--rounds', type=int, default=7, help='default: 7')
    parser.add_argument(
        '--steps',
        type=int,
        default=10,
        help=f'the most steps a turn (default: 10); fewer where they take more than {measures.TURN_SECONDS:.0f} s',
    )
    parser.add_argument('--warm-up', type=int, default=5, help='steps before anything is measured (default: 5)')
    parser.add_argument(
        '--workers',
        type=int,
        default=min(8, os.cpu_count() or 1),
        help='processes that load data for "plain" (default: one a core, at most the 8 of published scripts)',
    )
    parser.add_argument('--images', type=int, default=50_000, help='images in the data set (default: 50000)')
    parser.add_argument('--scaling', action='store_true', help='also: growth with batch size, classes and teacher')
    parser.add_argument(
        '--ranks', nargs='+', type=int, default=[], metavar='N', help='also: ICD over so many processes'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/step_time'), help='folder (default: %(default)s)')
    args = parser.parse_args(arguments)
    args.methods = split_methods(args.methods)
    args.device = find_device(args.device)
    for name in ('batch_sizes', 'ranks', 'rounds', 'steps', 'warm_up', 'images', 'threads'):
        value = getattr(args, name)
        if min(value if isinstance(value, list) else [1 if value is None else value], default=1) < 1:
            raise SettingError(f'--{name.replace("_", "-")} {value}: give 1 or more.')
    if args.workers < 0:
        raise SettingError(f'--workers {args.workers}: give 0 or more.')
    if args.device == 'cuda' and max(args.ranks, default=1) > torch.cuda.device_count():
        raise SettingError(
            f'--ranks {args.ranks}: each process needs a GPU, and torch finds {torch.cuda.device_count()}.'
        )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=args.out):
            pass
    except OSError as error:
        raise SettingError(f'--out {args.out} cannot be written ({error}). Give another folder.') from error
    return args


def find_device(wanted: str) -> str:
    found = get_device()
    if wanted == 'cuda' and found != 'cuda':
        raise SettingError('--device cuda: torch finds no GPU on this machine. Leave it out to measure the CPU.')
    if found not in ('cpu', 'cuda'):
        raise SettingError(f'this machine has a device {found!r}; only CPUs and CUDA devices are measured.')
    if wanted == 'cpu' and found == 'cuda':
        raise SettingError(
            '--device cpu: mmengine takes a GPU that it sees. Hide it: CUDA_VISIBLE_DEVICES= step_time.py'
        )
    return found


def contenders_of(args: argparse.Namespace) -> dict[str, list[str] | None]:
    """Return the contenders with their options; the plain loop has None."""
    fast = ['model.teacher_precision=bf16', 'optim_wrapper.type=AutocastOptimWrapper']
    if args.compile or args.device == 'cuda':
        fast.append('model.torch_compile=True')
    contenders = {PLAIN: None, DEFAULTS: [], FAST: fast}
    for name in args.leave_out:
        contenders.pop(name, None)
    for name, *options in args.contender:
        if name in (PLAIN, DEFAULTS, FAST, *contenders):
            raise SettingError(f'--contender {name}: there is one of this name. Call it otherwise.')
        contenders[name] = options
    return contenders


def write(results: dict[str, Any], folder: Path) -> None:
    write_json(results, folder / 'step_time.json')
    atomic_write(step_report.markdown(results), folder / 'step_time.md')
    if results['cases']:
        for ending in ('png', 'svg'):
            step_report.draw(results, folder / f'step_time.{ending}')


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    contenders = contenders_of(args)
    configs = {
        pair: {
            name: composed(pair, args.methods, name, options or [])
            for name, options in {'': [], **contenders}.items()
            if name != PLAIN
        }
        for pair in args.pairs
    }
    if PLAIN in contenders and set(args.methods) - set(plain_loop.PLAIN_METHODS):
        raise SettingError(
            f'--methods {"+".join(args.methods)}: the plain loop has {", ".join(plain_loop.PLAIN_METHODS)} alone. '
            'Add --leave-out plain; the others are then compared with the first of them.'
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    results: dict[str, Any] = {
        'machine': step_arithmetic.machine_facts(args.device),
        'settings': {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        'contenders': contenders,
        'cases': [],
        'growth': {},
    }
    for pair in args.pairs if contenders else []:
        for batch_size in args.batch_sizes:
            results['cases'].append(measure_pair(pair, batch_size, configs[pair], contenders, args))
            # runners are full of cycles, and a GPU's memory is to be free for the next
            gc.collect()
            if 'torch._dynamo' in sys.modules:
                # what was compiled for other sizes would count against torch's limit
                torch.compiler.reset()
            print(step_report.line(results['cases'][-1]), flush=True)
            write(results, args.out)
    if args.scaling:
        results['growth'] |= step_growth.measure(args.pairs[0], args)
    if args.ranks:
        results['growth']['ranks'] = step_growth.over_ranks(args)
    write(results, args.out)
    print(f'written: {args.out}/step_time.json, .md, .png, .svg')


if __name__ == '__main__':
    run_tool(main)
