#!/usr/bin/env python3
"""Train a method, or a combination of methods (icd+kd), on a pair of networks.

    train.py METHODS PAIR [OPTIONS OF tools/train.py]
    train.py --list

Composes the config, writes it into the work folder and trains it with tools/train.py, or in several processes with
tools/dist_train.sh. --dump only writes the config: for tools/slurm_train.sh, or as a starting point for your own.
Teaching assistants that a method needs (ceskd) are trained first, in work_dirs/assistants, unless they are there.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

from icd_mmrazor import recipes
from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import positive_int, run
from icd_mmrazor.workflow.assistants import train_assistants

TOOLS = Path(__file__).resolve().parents[1]


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('methods', metavar='METHODS', nargs='?', help='a method, or several: icd+kd; dcd is icd')
    parser.add_argument('pair', metavar='PAIR', nargs='?', help='TEACHER_STUDENT_DATASET')
    parser.add_argument('--list', action='store_true', help='list all methods and pairs, and what each pair needs')
    parser.add_argument('--dump', metavar='FILE', type=Path, help='write the composed config to FILE and exit')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: ./work_dirs/METHODS_PAIR)')
    number = 'one on each of N GPUs, or N on the CPU (default: 1)'
    parser.add_argument('--processes', type=positive_int, default=1, metavar='N', help=number)
    args, options = parser.parse_known_args()
    if not args.list and args.pair is None:
        parser.error('METHODS and PAIR are required; --list shows them')
    return args, options


def show_list() -> None:
    print('methods (combine them with a plus: icd+kd)')
    for method in recipes.method_names():
        print(f'  {method:<10}{recipes.describe_method(method)}')
    print('pairs, and what each needs (a method that does not fit a pair says why)')
    lines = [(pair, data_of(pair), recipes.describe_pair(pair)) for pair in recipes.pair_names()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print('  ' + '  '.join(f'{text:<{width}}' for text, width in zip(line, widths, strict=True)).rstrip())


def data_of(pair: str) -> str:
    """Describe the file or folder of the images, and whether it exists."""
    dataset = recipes.compose(pair, ['student']).train_dataloader.dataset
    dataset = dataset.get('dataset', dataset)  # in a wrapper
    path = dataset.get('data_file') or dataset.get('data_root')
    return f'data {path}' + ('' if Path(path).exists() else ' (missing)')


def main() -> None:
    args, options = parse_args()
    if args.list:
        show_list()
        return
    cfg = recipes.compose(args.pair, args.methods.split('+'))
    name = f'{recipes.canonical_name(args.methods)}_{args.pair}'
    if args.dump:
        check_writable(args.dump, '--dump', new=True)
        args.dump.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.dump)
        return
    if os.environ.get('WORLD_SIZE', '') not in ('', '1'):
        raise SettingError(
            f'WORLD_SIZE={os.environ["WORLD_SIZE"]}: this tool is a single process. For several GPUs give --processes '
            'GPUS, or write the config with --dump FILE and train it with tools/dist_train.sh FILE GPUS.'
        )
    work_dir = Path(args.work_dir or Path('work_dirs', name))
    if work_dir.is_file():
        raise SettingError(f'--work-dir {work_dir} is a file. Give a folder.')
    words = functools.partial(command, args.processes)
    train_assistants(args.pair, args.methods, options, words)
    config = work_dir / f'{name}.py'
    # atomically: another training in the same folder may be reading it
    atomic_write(cfg.pretty_text, config)
    training = words(config, ['--work-dir', str(work_dir), *options])
    os.execv(training[0], training)


def command(processes: int, config: Path, options: list[str]) -> list[str]:
    """Return the command that trains a config."""
    if processes == 1:
        return [sys.executable, str(TOOLS / 'train.py'), str(config), *options]
    os.environ['PYTHON'] = sys.executable
    return [str(TOOLS / 'dist_train.sh'), str(config), str(processes), *options]


if __name__ == '__main__':
    run(main)
