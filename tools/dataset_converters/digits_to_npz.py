#!/usr/bin/env python3
"""Write scikit-learn's digits as an .npz file for NPZDataset: 1297 training and 500 test images, 16 x 16, gray."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

TEST_IMAGES = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('dst', metavar='DST.npz', type=Path)
    dst = parser.parse_args().dst
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    # values of 0 to 16 at 8 x 8
    images = np.stack([cv2.resize(image, (16, 16)) for image in digits.images[order] * (255 / 16)])
    images, labels = images.round().astype(np.uint8), digits.target[order].astype(np.uint8)
    dst.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        dst,
        train_images=images[:-TEST_IMAGES],
        train_labels=labels[:-TEST_IMAGES],
        test_images=images[-TEST_IMAGES:],
        test_labels=labels[-TEST_IMAGES:],
    )
    print(f'{dst}: {len(images) - TEST_IMAGES} + {TEST_IMAGES} images')


if __name__ == '__main__':
    main()
