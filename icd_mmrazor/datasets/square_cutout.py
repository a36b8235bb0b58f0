"""A transform that covers a square of an image, whose side is a random part of the width."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@TRANSFORMS.register_module()
class SquareCutout(BaseTransform):
    """Cover a square of an image, which may lie partly outside.

    The side is drawn uniformly, up to a part of the image's width, then the centre. This is the cutout after
    RandAugment in FixMatch, and in the released code of MLKD (Jin-Ying/Multi-Level-Logit-Distillation, commit 5ee473f),
    pixel by pixel. mmpretrain's ``Cutout`` takes a size in pixels; ``RandomErasing`` draws the area, and stays inside.

    Args:
        max_side: Largest side as a part of the image's width.
        fill: Its colour, a number or one for each channel, in the order of the image's channels.

    Raises:
        SettingError: ``max_side`` is not between 0 and 1, ``fill`` is not a colour, or not one of the image's channels.

    Config example::

        strong=[dict(type='SquareCutout', max_side=0.5, fill=(125, 123, 114))]
    """

    def __init__(self, max_side: float = 0.5, fill: int | Sequence[int] = (125, 123, 114)) -> None:
        self.max_side = checks.positive(self, 'max_side', max_side)
        if max_side > 1:
            raise SettingError(f'SquareCutout: max_side={max_side} must be a part of the width, at most 1.')
        values = fill if isinstance(fill, list | tuple) else [fill]
        if not values or not all(type(value) is int and 0 <= value <= 255 for value in values):
            raise SettingError(
                f'SquareCutout: fill={fill!r} must be an integer from 0 to 255, or one for each channel of the images.'
            )
        self.fill = fill if isinstance(fill, int) else tuple(fill)

    def random_square(self, height: int, width: int) -> tuple[float, float, float]:
        """Draw the side of the square, and row and column of its centre, in pixels."""
        side = np.random.uniform(0, self.max_side) * width  # noqa: NPY002 transforms draw from it
        # from 1, as released
        return side, np.random.uniform(1, height), np.random.uniform(1, width)  # noqa: NPY002

    def transform(self, results: dict) -> dict:
        """Cover a square of ``img``, ``H x W`` or ``H x W x C``."""
        image = results['img']
        height, width = image.shape[:2]
        if isinstance(self.fill, tuple) and image.shape[2:] != (len(self.fill),):
            raise SettingError(
                f'SquareCutout: fill={self.fill} has {len(self.fill)} values, and an image has shape {image.shape}. '
                'Give a value for each channel, or one for all.'
            )
        side, row, column = self.random_square(height, width)
        top, left = (int(max(0, centre - side / 2)) for centre in (row, column))
        covered = image.copy()
        # the last row and column belong to it
        covered[top : int(top + side) + 1, left : int(left + side) + 1] = self.fill
        return {**results, 'img': covered}

    def __repr__(self) -> str:
        return f'{type(self).__name__}(max_side={self.max_side}, fill={self.fill})'
