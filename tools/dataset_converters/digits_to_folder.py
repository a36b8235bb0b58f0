#!/usr/bin/env python3
"""Write scikit-learn's digits as a folder of images: train/CLASS/*.png (1297) and val/CLASS/*.png (500), 16 x 16."""

import argparse
import tempfile
from pathlib import Path

import cv2
from digits_to_npz import read_digits

SPLITS = {'train': 'train', 'val': 'test'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('dst', metavar='DST', type=Path, help='the folder to create')
    dst = parser.parse_args().dst
    if dst.exists():
        parser.error(f'DST {dst} exists; give a new path')
    digits = read_digits()
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{dst.name}.', dir=dst.parent) as folder:
        part = Path(folder, dst.name)
        for split, arrays in SPLITS.items():
            labels = digits[f'{arrays}_labels']
            for i, (image, label) in enumerate(zip(digits[f'{arrays}_images'], labels, strict=True)):
                file = part / split / str(label) / f'{i:04}.png'
                file.parent.mkdir(parents=True, exist_ok=True)
                if not cv2.imwrite(str(file), image):
                    raise OSError(f'{file} could not be written')
            print(f'{dst / split}: {len(labels)} images of 10 classes')
        part.rename(dst)  # complete or not at all


if __name__ == '__main__':
    main()
