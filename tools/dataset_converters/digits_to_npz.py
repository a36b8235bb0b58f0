#!/usr/bin/env python3
"""Write scikit-learn's digits as an .npz file for NPZDataset: 1297 training and 500 test images, 16 x 16, gray."""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

TEST_IMAGES = 500


def read_digits() -> dict[str, np.ndarray]:
    """Return uint8 images (N x 16 x 16) and labels (N) of both splits, always in the same order."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    # values from 0 to 16, at 8 x 8
    images = np.stack([cv2.resize(image, (16, 16)) for image in digits.images[order] * (255 / 16)])
    images, labels = images.round().astype(np.uint8), digits.target[order].astype(np.uint8)
    return {
        'train_images': images[:-TEST_IMAGES],
        'train_labels': labels[:-TEST_IMAGES],
        'test_images': images[-TEST_IMAGES:],
        'test_labels': labels[-TEST_IMAGES:],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('dst', metavar='DST.npz', type=Path)
    dst = parser.parse_args().dst
    if dst.suffix != '.npz' or dst.exists():
        parser.error(f'DST {dst} must be a new file that ends in .npz')
    digits = read_digits()
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{dst.name}.', dir=dst.parent) as folder:
        part = Path(folder, dst.name)
        np.savez(part, **digits)
        part.rename(dst)  # complete or not at all
    print(f'{dst}: {len(digits["train_labels"])} + {len(digits["test_labels"])} images')


if __name__ == '__main__':
    main()
