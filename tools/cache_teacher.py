#!/usr/bin/env python3
"""Compute the outputs of a distillation's teacher for all views of its training images, ahead of the trainings.

    cache_teacher.py CONFIG --cfg-options model.teacher_cache.views=all model.teacher_cache.path=FOLDER

Trainings with the same settings find all outputs there, and need no teacher: model.teacher_ckpt=None. Repeat the
command to continue an interrupted one. Machines that share the folder may each compute a part: --part 1/4, 2/4, ...
"""

import argparse

from icd_mmrazor.launch.command_line import add_cfg_options, positive_int, run
from icd_mmrazor.launch.run_config import load_config
from icd_mmrazor.launch.teacher_caching import BATCH_SIZE, conclusion, fill_cache, part_of
from icd_mmrazor.launch.training import name_networks


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file of the distillation')
    size = 'images that the teacher sees at once (default: %(default)s)'
    parser.add_argument('--batch-size', type=positive_int, default=BATCH_SIZE, metavar='N', help=size)
    group = parser.add_mutually_exclusive_group()
    processes = 'processes that share the work (default: one on each GPU)'
    group.add_argument('--processes', type=positive_int, metavar='N', help=processes)
    group.add_argument('--part', type=part_of, metavar='I/N', help='compute one of N parts')
    parser.add_argument('--work-dir', help='folder for logs (default: ./work_dirs/CONFIG_NAME)')
    add_cfg_options(parser, 'change settings: model.teacher_cache.views=all model.teacher_cache.path=FOLDER ...')
    parser.set_defaults(launcher='none', local_rank=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    name_networks(cfg)
    store = fill_cache(cfg, args.batch_size, args.part, args.processes)
    print(conclusion(store, cfg, args.config, args.cfg_options or {}))


if __name__ == '__main__':
    run(main, 'Repeat the command to continue.')
