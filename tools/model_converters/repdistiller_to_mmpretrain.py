#!/usr/bin/env python3
"""Convert a published checkpoint of the CIFAR-100 distillation benchmark (RepDistiller) to mmpretrain's form.

The result is for model.teacher_ckpt of tools/train.py, or a checkpoint for tools/test.py.
"""

import argparse
from pathlib import Path

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.writing import check_writable, write_checkpoint
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.models.networks.repdistiller import ARCHITECTURES, convert


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', help='published checkpoint')
    parser.add_argument('dst', metavar='DST', help='where to write the converted one')
    names = f'its architecture (default: recognised from the tensors): {", ".join(ARCHITECTURES)}'
    parser.add_argument('--arch', metavar='NAME', help=names)
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    architecture = {ours: name for name, ours in ARCHITECTURES.items()}.get(args.arch, args.arch)
    if architecture not in (None, *ARCHITECTURES):
        raise SettingError(f'--arch {args.arch} is not one of {", ".join(ARCHITECTURES)}.')
    check_writable(Path(args.dst), 'DST')
    if Path(args.dst).exists() and not args.force:
        raise SettingError(f'DST {args.dst} exists. Give another path, or --force to replace it.')
    # some published checkpoints hold the command line of the training
    checkpoint = read_checkpoint(args.src, also_allowed=[argparse.Namespace])
    converted = convert(checkpoint, args.src, architecture)
    write_checkpoint(converted, args.dst)
    meta, weights = converted['meta'], converted['state_dict']
    accuracy = f', published accuracy {meta["accuracy"]:.2f} %' if 'accuracy' in meta else ''
    classes = len(weights['head.fc.weight'])
    print(f'{args.dst}: {meta["architecture"]}, {len(weights)} tensors, {classes} classes{accuracy}')


if __name__ == '__main__':
    run(main)
