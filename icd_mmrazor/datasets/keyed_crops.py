"""Crops of images, flipped or not, that follow from a key for each image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from icd_mmrazor.datasets.pipelines import Pipeline
from icd_mmrazor.datasets.randomness import seed_numpy, undrawn
from icd_mmrazor.datasets.view_numbers import AllViews, FixedViews

# how many views are remembered: 4 bytes an image each
REMEMBERED = 16


class Crops(NamedTuple):
    """First row and column of each of several crops, and whether it is flipped, ``B`` each."""

    tops: np.ndarray
    lefts: np.ndarray
    flipped: np.ndarray


class KeyedCrops:
    """The crops and flips of the fixed views of images, the same as with the transforms image by image.

    The transforms themselves draw them, with the random numbers of each view, and only once for the views of the last
    few passes over the data: then a batch costs an index into a table.

    Args:
        views: The numbering of the views.
        pipeline: The transforms.
        images: Height and width of the images with their padding.
        number: How many images there are.
    """

    def __init__(self, views: FixedViews, pipeline: Pipeline, images: tuple[int, int], number: int) -> None:
        self.made_for = views, pipeline.random_part, images, number
        self._views, self._pipeline, self._number = views, pipeline, number
        self._codes = AllViews(images, pipeline.crop_size(images))
        # takes no memory: transforms ask for its shape
        self._image = np.broadcast_to(np.uint8(0), (*images, 3))
        self._known: dict[int, np.ndarray] = {}

    def __call__(self, indices: Sequence[int], view: int) -> Crops:
        """Return the crops of a view of each of several images, by their indices."""
        if view not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[view] = np.full(self._number, -1, dtype=np.int32)
        known, chosen = self._known[view], np.asarray(indices)
        missing = chosen[known[chosen] < 0]
        if len(missing):
            known[missing] = self._codes.of(*np.array(self._drawn(missing.tolist(), view)).T)
        return Crops(*self._codes.crop(known[chosen]))

    def _drawn(self, indices: Sequence[int], view: int) -> list[tuple[int, int, bool]]:
        crop, flip = self._pipeline.crop, self._pipeline.flip
        drawn = []
        with undrawn():
            for index in indices:
                seed_numpy(*self._views.key(index, view))
                top, left, *_ = crop.rand_crop_params(self._image) if crop else (0, 0)
                drawn.append((top, left, flip is not None and flip._choose_direction() is not None))
        return drawn
