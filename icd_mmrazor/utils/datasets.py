"""What the hooks ask a dataset."""

from typing import Any

import numpy as np


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
