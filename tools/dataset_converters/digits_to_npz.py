#!/usr/bin/env python3
"""Write scikit-learn's digits as an .npz file for NPZDataset: 1297 training and 500 test images, 16 x 16, gray."""

import argparse
from pathlib import Path

from icd_mmrazor.checkpoints.writing import check_writable, write_arrays
from icd_mmrazor.launch.command_line import run

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
    parts = {'train': slice(-TEST_IMAGES), 'test': slice(-TEST_IMAGES, None)}
    arrays = {'images': images, 'labels': labels}
    return {f'{split}_{name}': array[part] for split, part in parts.items() for name, array in arrays.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('dst', metavar='DST.npz', type=Path)
    dst = parser.parse_args().dst
    check_writable(dst, 'DST', ['.npz'], new=True)
    digits = read_digits()
    write_arrays(digits, dst)
    print(f'{dst}: {len(digits["train_labels"])} + {len(digits["test_labels"])} images')


if __name__ == '__main__':
    run(main)
