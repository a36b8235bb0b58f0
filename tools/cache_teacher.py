#!/usr/bin/env python3
"""Compute the outputs of a distillation's teacher for all views of its training images, ahead of the trainings.

    cache_teacher.py CONFIG --cfg-options model.teacher_cache.views=all model.teacher_cache.path=FOLDER

Trainings with the same model.teacher_cache then find all outputs there, and need no teacher: model.teacher_ckpt=None.
Repeat the command to continue an interrupted one. Parts of the work (--part 1/4, 2/4, ...) may run at the same time, on
one machine or several that share the folder.
"""

import argparse

from icd_mmrazor.launch.command_line import positive_int, run
from icd_mmrazor.launch.run_config import add_common_arguments, load_config
from icd_mmrazor.launch.teacher_caching import BATCH_SIZE, fill_cache, part_of
from icd_mmrazor.launch.training import name_networks


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file of the distillation')
    size = 'images that the teacher sees at once (default: %(default)s)'
    parser.add_argument('--batch-size', type=positive_int, default=BATCH_SIZE, metavar='N', help=size)
    processes = 'processes that share the work (default: one on each GPU)'
    parser.add_argument('--processes', type=positive_int, metavar='N', help=processes)
    part = 'compute one of N parts of what is missing'
    parser.add_argument('--part', type=part_of, metavar='I/N', help=part)
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    name_networks(cfg)
    fill_cache(cfg, args.batch_size, args.part, args.processes)


if __name__ == '__main__':
    run(main, 'Repeat the command to continue.')
