"""Numberings of the views that a training shows of each image."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from icd_mmrazor.datasets.keyed_mixing import KeyedMixing
from icd_mmrazor.datasets.pipelines import Pipeline
from icd_mmrazor.datasets.randomness import VIEW

# settings of the numberings that are not a number of views
ALL, FIRST = 'all', 'first'


class Views:
    """A numbering of views; the base class of all.

    Attributes:
        number (int): How many views of an image there are.
        in_memory (bool): Whether images must be cropped and flipped in memory (:class:`InMemoryBatches`).
    """

    number: int
    in_memory = False

    def row(self, index: Any, view: Any) -> Any:
        """Return the number of a view among those of all images, by the image's index in the dataset; arrays too."""
        return index * self.number + view

    def at(self, pass_number: int) -> int:  # noqa: ARG002 only some depend on it
        """Return the view of a pass over the data; 0 if it does not follow from the number of the pass."""
        return 0

    @property
    def description(self) -> dict[str, Any]:
        """What the views are, as JSON: two numberings with the same description have the same views."""
        raise NotImplementedError


@dataclass(frozen=True)
class AllViews(Views):
    """All crops of an image, flipped or not: which one a batch has is known once it is drawn.

    Args:
        images: Height and width of the images with their padding.
        crops: Height and width of the crops.
        flips: Whether a crop is flipped: ``(False, True)`` if it may be or not.
    """

    images: tuple[int, int]
    crops: tuple[int, int]
    flips: tuple[bool, ...] = (False, True)
    in_memory = True

    @classmethod
    def of_pipeline(cls, pipeline: Pipeline, images: tuple[int, int]) -> 'AllViews':
        """Return the views that a pipeline makes of images whose height and width with their padding is given."""
        prob = pipeline.flip.prob if pipeline.flip else 0.0
        flips = (False, True) if 0 < prob < 1 else (prob > 0,)
        return cls(images, pipeline.crop_size(images), flips)

    @property
    def places(self) -> tuple[int, int]:
        """How many first rows and first columns a crop may have."""
        rows, columns = (side - part + 1 for side, part in zip(self.images, self.crops, strict=True))
        return rows, columns

    @property
    def number(self) -> int:
        """How many views of an image there are."""
        rows, columns = self.places
        return rows * columns * len(self.flips)

    def of(self, tops: np.ndarray, lefts: np.ndarray, flipped: np.ndarray) -> np.ndarray:
        """Return the numbers of views, ``B``, by the first row and column of each crop and whether it is flipped."""
        places = np.asarray(tops, dtype=np.int64) * self.places[1] + lefts
        return places * len(self.flips) + (flipped if len(self.flips) > 1 else 0)

    def crop(self, views: Any) -> tuple[Any, Any, Any]:
        """Return the first row and column of the crop with a number, and whether it is flipped; of arrays, arrays."""
        places, flipped = np.divmod(views, len(self.flips))
        return *np.divmod(places, self.places[1]), np.asarray(self.flips)[flipped]

    @property
    def description(self) -> dict[str, Any]:
        """What the views are, as JSON."""
        return {'views': ALL, 'images': [*self.images], 'crops': [*self.crops], 'flips': [*self.flips]}

    def __str__(self) -> str:
        parts = [f'{self.places[0]} x {self.places[1]} crops'] if self.places != (1, 1) else []
        if True in self.flips:
            parts.append('flipped or not' if len(self.flips) > 1 else 'flipped')
        return f'{", ".join(parts) or "not cropped"}: {self.number:,} view{"s" * (self.number > 1)}'


@dataclass(frozen=True)
class FixedViews(Views):
    """A few views of each image, which follow from a seed; passes over the data take turns.

    The view of an image is the same in all runs, whatever their seed, their batches and their processes.

    Args:
        number: How many.
        seed: What they follow from.
        mixing: What mixes the images, if they are mixed; also a function of the view.
    """

    number: int
    seed: int = 0
    mixing: KeyedMixing | None = None

    def at(self, pass_number: int) -> int:
        """Return the view of a pass over the data."""
        return pass_number % self.number

    def key(self, index: int, view: int) -> tuple[int, ...]:
        """Return what the random numbers of a view of an image follow from."""
        return self.seed, int(index), int(view), VIEW

    @property
    def description(self) -> dict[str, Any]:
        """What the views are, as JSON."""
        mixing = {} if self.mixing is None else {'mixing': self.mixing.description}
        return {'views': self.number, 'seed': self.seed, **mixing}

    def __str__(self) -> str:
        mixed = '' if self.mixing is None else 'mixed '
        return f'{self.number:,} fixed {mixed}view{"s" * (self.number > 1)}'


@dataclass(frozen=True)
class FirstView(Views):
    """All views of an image under one number: what is known of the first of them stands for all."""

    number: int = 1

    @property
    def description(self) -> dict[str, Any]:
        """What the views are, as JSON."""
        return {'views': FIRST}

    def __str__(self) -> str:
        return 'the first view'
