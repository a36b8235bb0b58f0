#!/usr/bin/env python3
"""Train a config: a teacher, a plain student, or a distillation."""

import argparse
from pathlib import Path

import icd_mmrazor  # noqa: F401 (first: it says what to install where the stack is missing)

# isort: split
from mmengine.config import Config

from icd_mmrazor.checkpoints.resuming import follow_restart
from icd_mmrazor.compat.distributed import process_group
from icd_mmrazor.compat.layout import accelerator_available
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.engine.hooks import CheckWeightsHook
from icd_mmrazor.engine.hooks.checkpoint_hook import use_intact_checkpoints
from icd_mmrazor.engine.runner import ResumableRunner
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import add_common_arguments, load_config, run
from icd_mmrazor.launch.watchdog import Watchdog
from icd_mmrazor.models.classifiers import name_student_in_full
from icd_mmrazor.models.networks.resolve import name_networks_in_full

WRAPPERS = {'fp16': 'AmpOptimWrapper', 'bf16': 'AutocastOptimWrapper'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    # not required: it may be what follows --amp
    parser.add_argument('config', nargs='?', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the latest whole one in the work folder',
    )
    parser.add_argument(
        '--resume-changes',
        choices=('refuse', 'list'),
        help='where settings, teacher or data differ from what the checkpoint was trained with: end with a list of the '
        'differences (the default), or go on and write it to the log',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='fp16',
        metavar='{fp16,bf16}',
        help='train with automatic mixed precision: fp16 (the default; needs a GPU) or bf16; a frozen teacher too',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the whole batch size over auto_scale_lr.base_batch_size',
    )
    add_common_arguments(parser)
    args = parser.parse_args()
    if not args.config and args.amp not in (None, *WRAPPERS):
        args.config, args.amp = args.amp, 'fp16'
    if not args.config:
        parser.error('the following arguments are required: config')
    if args.amp not in (None, *WRAPPERS):
        parser.error(f'argument --amp: invalid choice: {args.amp!r} (choose from fp16, bf16)')
    return args


def apply_arguments(cfg: Config, args: argparse.Namespace) -> None:
    if args.resume:
        if args.resume != 'auto' and not Path(args.resume).is_file():
            raise SettingError(f'--resume {args.resume}: there is no such file (working folder: {Path.cwd()}).')
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.resume_changes:
        hooks = cfg.setdefault('default_hooks', {})
        hooks['check_resume'] = {'type': 'CheckResumeHook', 'changes': args.resume_changes}
    if args.amp:
        use_mixed_precision(cfg, args.amp)
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            raise SettingError(
                '--auto-scale-lr: the config does not say for which batch size its learning rate is. '
                'Add auto_scale_lr = dict(base_batch_size=64) to it.'
            )
        cfg.auto_scale_lr.enable = True


def use_mixed_precision(cfg: Config, precision: str) -> None:
    if precision == 'fp16' and not accelerator_available():
        raise SettingError(
            '--amp needs a GPU, and this machine shows none. Leave it out: a CPU trains in float32. '
            '--amp bf16 works on a CPU too.'
        )
    name = WRAPPERS[precision]
    wrapper = type_name(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    if wrapper not in ('OptimWrapper', name):
        raise SettingError(
            f'--amp {precision}: the config has optim_wrapper.type={wrapper!r}, with a precision of its own.'
        )
    cfg.optim_wrapper.type = name
    if precision == 'fp16':
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if is_ours(cfg):
        cfg.model.setdefault('teacher_precision', precision)


def is_ours(cfg: Config) -> bool:
    return type_name(cfg.get('model', {}).get('type')) == 'FrozenTeacherDistill'


def train(cfg: Config) -> None:
    use_intact_checkpoints(cfg)
    runner = ResumableRunner.from_cfg(cfg)
    if 'check_weights' not in cfg.get('default_hooks', {}):
        # of a config that is not built on ours
        runner.register_hook(CheckWeightsHook())
    runner.train()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    # what is stored with the run is then complete
    if is_ours(cfg):
        name_networks_in_full(cfg.model)
    elif type_name(cfg.get('model', {}).get('type')) == 'LinearProbe':
        name_student_in_full(cfg.model)
    apply_arguments(cfg, args)
    follow_restart(cfg)
    with Watchdog(cfg), process_group(cfg):
        train(cfg)


if __name__ == '__main__':
    run(main, when_stopped='The same command with --resume goes on from the last checkpoint.')
