#!/usr/bin/env python3
"""Look at a student beyond its accuracy: calibration, agreement with the teacher, corruptions, attacks, unknown images.

The student is that of a distillation's checkpoint, or a plain classifier. The results are printed, and written to
robustness.json next to the checkpoint, where tools/analysis/report.py finds them.
"""

import argparse
import json
from pathlib import Path

from icd_mmrazor.analysis.robustness import ATTACKED, CHECKS, Settings, measure
from icd_mmrazor.analysis.subject import MAX_IMAGES, read_subject
from icd_mmrazor.analysis.text import describe
from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.launch.command_line import add_cfg_options, positive_int, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the training; with a plain student, its teacher is left out')
    parser.add_argument('checkpoint', type=Path, help='checkpoint, of a distillation or of a plain classifier')
    parser.add_argument('--checks', nargs='+', metavar='CHECK', help=f'{", ".join(CHECKS)} (default: all that apply)')
    parser.add_argument('--corruptions', nargs='+', metavar='NAME', help='default: all')
    parser.add_argument('--bins', type=positive_int, default=15, metavar='N', help='of the calibration (default: 15)')
    unknown = 'unknown images: noise (default), shuffled, a folder of images, or a config with a test set'
    parser.add_argument('--ood', default='noise', metavar='IMAGES', help=unknown)
    most = f'test images, drawn from more (default: {MAX_IMAGES})'
    parser.add_argument('--max-images', type=positive_int, default=MAX_IMAGES, metavar='N', help=most)
    attacks = f'how many of them are attacked (default: {ATTACKED})'
    parser.add_argument('--attacked', type=positive_int, default=ATTACKED, metavar='N', help=attacks)
    parser.add_argument('--seed', type=int, default=0, help='of all random numbers (default: 0)')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='default: robustness.json next to the checkpoint')
    add_cfg_options(parser, 'change settings of the config: test_dataloader.dataset.data_root=DIR ...')
    args = parser.parse_args()
    out = args.out or args.checkpoint.with_name('robustness.json')
    names = ('checks', 'bins', 'corruptions', 'attacked', 'ood', 'seed')
    settings = Settings(**{name: getattr(args, name) for name in names})
    check_writable(out, '--out', ['.json'])
    subject = read_subject(args.checkpoint, args.config, args.cfg_options, args.max_images, args.seed)
    print(f'{len(subject.images):,} of {subject.images.total:,} test images')
    found = subject.origin
    for name, result in measure(subject, settings):
        found[name] = result
        atomic_write(json.dumps(found, indent=1), out)  # a later check may fail
        print(f'\n{describe(name, result)}', flush=True)
    print(f'\nwritten: {out}')


if __name__ == '__main__':
    run(main)
