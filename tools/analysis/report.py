#!/usr/bin/env python3
"""Write the report of a distillation: one page of HTML, to look at or to send around.

WORK_DIR is the folder of tools/train.py or of tools/distill.py. Nothing in it is executed.
"""

import argparse
from pathlib import Path

from icd_mmrazor.launch.command_line import positive_int, run
from icd_mmrazor.report.page import MAX_IMAGES, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, metavar='WORK_DIR', help='work folder of the distillation')
    alone = 'work folder of the student trained without a teacher'
    parser.add_argument('--baseline', type=Path, metavar='WORK_DIR', help=alone)
    parser.add_argument('--out', type=Path, metavar='FILE', help='default: WORK_DIR/report.html')
    images = f'look at N validation images at most (default: {MAX_IMAGES:,})'
    parser.add_argument('--max-images', type=positive_int, default=MAX_IMAGES, metavar='N', help=images)
    args = parser.parse_args()
    print(f'written: {write_report(args.work_dir, args.baseline, args.out, args.max_images)}')


if __name__ == '__main__':
    run(main)
