#!/usr/bin/env python3
"""Evaluate a student: of a distillation or plain, by the config it was trained with or its vanilla one."""

import argparse

from icd_mmrazor import compat  # first: it says what to install where the stack is missing

# isort: split
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.runner import Runner

from icd_mmrazor.utils.checkpoints import load_strictly, read_checkpoint, weights_of
from icd_mmrazor.utils.command_line import add_common_arguments, load_config, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, of the distillation or of the plain student')
    parser.add_argument('checkpoint', help='checkpoint, of a distillation or of a plain network')
    parser.add_argument('--out', metavar='FILE.json', help='write the metrics to this file')
    add_common_arguments(parser)
    return parser.parse_args()


def reduce_to_student(cfg: Config) -> None:
    """Replace a distillation in the config by its student: no teacher is needed to test it."""
    if 'architecture' in cfg.model:
        cfg.model = cfg.model.architecture


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    reduce_to_student(cfg)
    weights = weights_of(read_checkpoint(args.checkpoint), args.checkpoint)
    with compat.process_group(cfg):
        runner = Runner.from_cfg(cfg)
        load_strictly(getattr(runner.model, 'module', runner.model), weights, f'checkpoint {args.checkpoint}')
        metrics = runner.test()
        if args.out and runner.rank == 0:
            dump(metrics, args.out)


if __name__ == '__main__':
    run(main)
