#!/usr/bin/env python3
"""Write scikit-learn's digits as a folder of images: train/CLASS/*.png (1297) and val/CLASS/*.png (500), 16 x 16."""

import argparse
import shutil
import tempfile
from pathlib import Path

import cv2
from digits_to_npz import read_digits

SPLITS = {'train': 'train', 'val': 'test'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('dst', metavar='DST', type=Path, help='the folder; it is made')
    dst = parser.parse_args().dst
    if dst.exists():
        parser.error(f'DST {dst} exists and is kept; give another path')

    digits = read_digits()
    dst.parent.mkdir(parents=True, exist_ok=True)
    # the folder is there whole or not at all
    part = Path(tempfile.mkdtemp(prefix=f'.{dst.name}.', dir=dst.parent))
    try:
        for split, arrays in SPLITS.items():
            for i, (image, label) in enumerate(
                zip(digits[f'{arrays}_images'], digits[f'{arrays}_labels'], strict=True)
            ):
                file = part / split / str(label) / f'{i:04}.png'
                file.parent.mkdir(parents=True, exist_ok=True)
                if not cv2.imwrite(str(file), image):
                    raise OSError(f'{file} could not be written')
        part.chmod(0o755)
        part.rename(dst)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for split, arrays in SPLITS.items():
        print(f'{dst / split}: {len(digits[f"{arrays}_labels"])} images of 10 classes')


if __name__ == '__main__':
    main()
