"""What the hooks ask a dataset."""

from typing import Any

import numpy as np
from torch import Tensor

LOOKED_AT = 8


def image_labels(dataset: Any) -> np.ndarray | None:
    """Return the labels of a dataset.

    Args:
        dataset: Any dataset; mmpretrain's have ``get_gt_labels``.

    Returns:
        One integer an image, or ``None`` where a dataset has no labels, or several for an image.
    """
    if not hasattr(dataset, 'get_gt_labels') or not len(dataset):
        return None
    try:
        labels = dataset.get_gt_labels()
    except (KeyError, ValueError):  # no labels, or rows of different length
        return None
    return labels if labels.ndim == 1 and labels.dtype.kind in 'iu' else None


def images_are_gray(dataset: Any) -> bool:
    """Return whether all channels of a dataset's images are alike, so that their order does not matter.

    Args:
        dataset: Any dataset whose samples have ``inputs``; the first few are looked at.
    """
    try:
        images = [dataset[i]['inputs'] for i in range(min(LOOKED_AT, len(dataset)))]
    except (TypeError, LookupError):  # samples of another form
        return False
    return all(isinstance(i, Tensor) and i.ndim == 3 and bool((i == i[:1]).all()) for i in images)
