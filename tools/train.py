#!/usr/bin/env python3
"""Train a config: a teacher, a plain student, or a distillation."""

import argparse

from icd_mmrazor.checkpoints.reading import local_file
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.launch.machines import joined_processes
from icd_mmrazor.launch.run_config import add_common_arguments, load_config
from icd_mmrazor.launch.training import OPTIM_WRAPPERS, name_networks, scale_learning_rate, train, use_mixed_precision

from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    # not required: it may follow --amp, which then takes it for a precision
    parser.add_argument('config', nargs='?', help='config file')
    resume = 'resume from this checkpoint, or from the latest valid one in the work folder'
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=resume)
    changes = 'if settings, teacher or data differ from those of the checkpoint: end with a list of the differences '
    changes += '(the default), or write it to the log and continue'
    parser.add_argument('--resume-changes', choices=('refuse', 'list'), help=changes)
    amp = 'train with automatic mixed precision, fp16 (the default; needs a GPU) or bf16; also a frozen teacher'
    parser.add_argument('--amp', nargs='?', const='fp16', metavar='{fp16,bf16}', help=amp)
    scale = 'scale the learning rate by the total batch size over auto_scale_lr.base_batch_size'
    parser.add_argument('--auto-scale-lr', action='store_true', help=scale)
    add_common_arguments(parser)
    args = parser.parse_args()
    if not args.config and args.amp not in (None, *OPTIM_WRAPPERS):
        args.config, args.amp = args.amp, 'fp16'
    if not args.config:
        parser.error('the following arguments are required: config')
    if args.amp not in (None, *OPTIM_WRAPPERS):
        parser.error(f'argument --amp: invalid choice: {args.amp!r} (choose from fp16, bf16)')
    return args


def apply_arguments(cfg: Config, args: argparse.Namespace) -> None:
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if cfg.get('load_from') and '://' not in cfg.load_from:
        local_file(cfg.load_from)  # before the work that precedes its reading
    if args.resume_changes:
        if 'sanity_check' in cfg.default_hooks:
            cfg.default_hooks.sanity_check['resume_changes'] = args.resume_changes
        else:  # a stored config of version 0.1, or one that is not built on ours
            cfg.default_hooks.check_resume = {'type': 'CheckResumeHook', 'changes': args.resume_changes}
    if args.amp:
        use_mixed_precision(cfg, args.amp)
    if args.auto_scale_lr:
        scale_learning_rate(cfg)


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    name_networks(cfg)
    apply_arguments(cfg, args)
    with joined_processes(cfg):
        train(cfg)


if __name__ == '__main__':
    run(main, when_stopped='To continue, repeat the command with --resume.')
