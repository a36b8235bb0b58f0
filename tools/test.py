#!/usr/bin/env python3
"""Evaluate a student, of a distillation or plain, with the config it was trained with or its vanilla one."""

import argparse
from pathlib import Path

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly, weights_of
from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.compat.distributed import process_group
from icd_mmrazor.datasets.class_names import check_class_names, choice_in, class_names
from icd_mmrazor.datasets.labels import datasets_in_use, images_are_gray
from icd_mmrazor.engine.metrics import json_value
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.plain_test import needs_distillation
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.launch.run_config import add_common_arguments, load_config
from icd_mmrazor.launch.runner import ToolRunner
from icd_mmrazor.launch.views import show_views, shown_model
from icd_mmrazor.launch.watchdog import Watchdog
from icd_mmrazor.models.networks.preparation import (
    preparation_by,
    preparation_of_checkpoint,
    refuse_other_order,
    source_of_images,
)
from icd_mmrazor.models.networks.student import student_of

from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.model import is_model_wrapper


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, of the distillation or of the plain student')
    parser.add_argument('checkpoint', help='checkpoint, of a distillation or of a plain network')
    parser.add_argument('--out', metavar='FILE.json', help='write the metrics to this file')
    views = "average the scores of several views of each image: those of the config's tta_pipeline, by default the "
    views += 'image and its mirror image'
    parser.add_argument('--tta', action='store_true', help=views)
    add_common_arguments(parser)
    return parser.parse_args()


def prepare(cfg: Config, args: argparse.Namespace) -> None:
    if args.out and Path(args.out).suffix != '.json':
        raise SettingError(f'--out {args.out} must end in .json: the metrics are written as JSON.')
    if args.out:
        check_writable(Path(args.out), '--out')
    if not args.work_dir:
        # mmengine writes the config of a run into its folder: keep that of the training
        cfg.work_dir = str(Path(cfg.work_dir, 'test'))
    if not needs_distillation(cfg.test_evaluator):
        cfg.model = student_of(cfg)
    elif args.tta:
        raise SettingError(
            '--tta: a metric of test_evaluator compares the student with its teacher. Leave out one of them.'
        )
    if args.tta:
        show_views(cfg)
    # the weights are loaded below, strictly; mmengine would load others over them
    cfg.load_from, cfg.resume = None, False


def test(cfg: Config, args: argparse.Namespace) -> None:
    checkpoint = read_checkpoint(args.checkpoint)
    weights = weights_of(checkpoint, args.checkpoint)
    runner = ToolRunner.from_cfg(cfg)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if args.tta:
        model = shown_model(model, runner.test_dataloader.dataset)
    trained, source = preparation_of_checkpoint(checkpoint), source_of_images(cfg, ('test',))
    if source is not None:
        used, dataset = preparation_by(model.data_preprocessor, source), runner.test_dataloader.dataset
        refuse_other_order('the network', trained, used, lambda: images_are_gray(dataset), 'this test')
    what = f'checkpoint {args.checkpoint}'
    load_strictly(getattr(model, 'architecture', model), weights, what)
    names = class_names(checkpoint.get('meta'))
    check_class_names(what, names, datasets_in_use(runner), choice_in(cfg), runner.logger.warning)
    metrics = runner.test()
    if args.out and runner.rank == 0:
        atomic_write(dump(json_value(metrics), file_format='json'), Path(args.out))


def main() -> None:
    args = parse_args()
    cfg = load_config(args, 'test')
    prepare(cfg, args)
    with Watchdog(cfg), process_group(cfg):
        test(cfg, args)


if __name__ == '__main__':
    run(main)
