#!/usr/bin/env python3
"""Write CIFAR-10 or CIFAR-100 as an .npz file for NPZDataset.

    cifar_to_npz.py cifar10 data/cifar10.npz

Takes the published archive, or its unpacked folder, from ROOT, and downloads it if neither is there; both are verified
by the published MD5 sums. The arrays are x_train, y_train, x_test and y_test, in the published order.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from icd_mmrazor.checkpoints.writing import check_writable, write_arrays
from icd_mmrazor.datasets import VerifiedCIFAR10, VerifiedCIFAR100
from icd_mmrazor.launch.command_line import run

import numpy as np

DATASETS = {'cifar10': VerifiedCIFAR10, 'cifar100': VerifiedCIFAR100}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', choices=DATASETS)
    parser.add_argument('dst', metavar='DST.npz', type=Path)
    parser.add_argument('--data-root', metavar='ROOT', help='default: data/cifar10 or data/cifar100')
    args = parser.parse_args(arguments)
    check_writable(args.dst, 'DST', ['.npz'], new=True)
    arrays = {}
    for split in ('train', 'test'):
        dataset = DATASETS[args.dataset](args.data_root or f'data/{args.dataset}', split, lazy_init=True)
        entries = dataset.load_data_list()
        arrays[f'x_{split}'] = np.stack([entry['img'] for entry in entries])
        arrays[f'y_{split}'] = np.array([entry['gt_label'] for entry in entries], np.uint8)
    write_arrays(arrays, args.dst)
    print(f'{args.dst}: {len(arrays["y_train"])} + {len(arrays["y_test"])} images')


if __name__ == '__main__':
    run(main)
