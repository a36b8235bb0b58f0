#!/usr/bin/env python3
"""Evaluate a student, of a distillation or plain, with the config it was trained with or its vanilla one."""

import argparse
from pathlib import Path

from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.engine.metrics import json_value
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.launch.machines import joined_processes
from icd_mmrazor.launch.run_config import add_common_arguments, load_config
from icd_mmrazor.launch.testing import prepare, test

from mmengine.fileio import dump


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, of the distillation or of the plain student')
    parser.add_argument('checkpoint', help='checkpoint, of a distillation or of a plain network')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='write the metrics to this file')
    views = "average the scores of several views of each image: those of the config's tta_pipeline, by default the "
    views += 'image and its mirror image'
    parser.add_argument('--tta', action='store_true', help=views)
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args, 'test')
    if args.out:
        check_writable(args.out, '--out', ['.json'])
    if not args.work_dir:
        # mmengine writes the config of a run into its folder: keep that of the training
        cfg.work_dir = str(Path(cfg.work_dir, 'test'))
    prepare(cfg, args.tta)
    with joined_processes(cfg):
        runner, metrics = test(cfg, args.checkpoint, args.tta)
        if args.out and runner.rank == 0:
            atomic_write(dump(json_value(metrics), file_format='json'), args.out)


if __name__ == '__main__':
    run(main)
