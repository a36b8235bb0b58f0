#!/usr/bin/env python3
"""Write scikit-learn's digits as a folder of images: train/CLASS/*.png (1297) and val/CLASS/*.png (500), 16 x 16.

With --labeled N, all but the first N training images are without a class: unlabeled/*.png.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
from digits_to_npz import read_digits

SPLITS = {'train': 'train', 'val': 'test'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('dst', metavar='DST', type=Path, help='the folder to create')
    parser.add_argument('--labeled', type=int, metavar='N', help='training images with a class (default: all)')
    args = parser.parse_args()
    digits, dst = read_digits(), args.dst
    if dst.exists():
        parser.error(f'DST {dst} exists; give a new path')
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{dst.name}.', dir=dst.parent) as folder:
        part = Path(folder, dst.name)
        for split, arrays in SPLITS.items():
            for i, image in enumerate(digits[f'{arrays}_images']):
                with_class = split == 'val' or args.labeled is None or i < args.labeled
                label = f'{split}/{digits[f"{arrays}_labels"][i]}'
                file = part / (label if with_class else 'unlabeled') / f'{i:04}.png'
                file.parent.mkdir(parents=True, exist_ok=True)
                if not cv2.imwrite(str(file), image):
                    raise OSError(f'{file} could not be written')
        for split in sorted(path.name for path in part.iterdir()):
            files = [*part.glob(f'{split}/**/*.png')]
            classes = {file.parent.name for file in files} - {split}
            print(f'{dst / split}: {len(files)} images' + f' of {len(classes)} classes' * bool(classes))
        part.rename(dst)  # complete or not at all


if __name__ == '__main__':
    main()
