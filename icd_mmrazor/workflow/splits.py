"""Annotation files of the images of a run."""

import dataclasses
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.errors import DatasetError
from icd_mmrazor.workflow.folder import ImageFolder


def split_off_validation(folder: ImageFolder, fraction: float, seed: int) -> ImageFolder:
    """Split a validation set off the training images, the same fraction of each class.

    The split depends only on the names of the files and the seed. Every class keeps an image on each side.

    Args:
        folder: A folder without validation images.
        fraction: The fraction of each class to validate on, between 0 and 1.
        seed: The seed.

    Raises:
        DatasetError: A class has a single image.
    """
    by_class: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for item in sorted(folder.train):
        by_class[item[1]].append(item)
    train, val = [], []
    for label, items in sorted(by_class.items()):
        if len(items) < 2:
            raise DatasetError(
                f"--data {folder.root}: class '{folder.classes[label]}' has one image. It needs two or more, so that "
                'one can be validated on.'
            )
        random.Random(f'{seed} {label}').shuffle(items)
        number = min(max(round(fraction * len(items)), 1), len(items) - 1)
        val += items[:number]
        train += items[number:]
    note = f'split off {len(val)} images to validate on, {fraction:.0%} of each class (seed {seed})'
    return dataclasses.replace(folder, train=tuple(sorted(train)), val=tuple(sorted(val)), notes=(*folder.notes, note))


def write_annotations(items: Iterable[tuple[str, int]], file: Path) -> None:
    """Write the images of a dataset for mmpretrain's ``CustomDataset(ann_file=...)``: a path and a label each.

    Without labels (-1) a line is a path.
    """
    lines = []
    for path, label in items:
        # CustomDataset strips the lines; a path may start with a blank, and always ends in its extension
        path = f'./{path}' if path != path.lstrip() else path
        lines.append(f'{path} {label}' if label >= 0 else path)
    atomic_write(''.join(f'{line}\n' for line in lines), file)
