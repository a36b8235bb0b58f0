"""A transform for image files that go to networks trained on arrays."""

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@TRANSFORMS.register_module()
class ImageAsInDataset(BaseTransform):
    """Convert an image from elsewhere to the format of a dataset's images.

    mmpretrain's inferencers read image files in BGR and at their own size; datasets of arrays (CIFAR,
    :class:`NPZDataset`) give RGB images of one size. With this transform, the test pipeline of an exported student
    serves both: an image of a dataset, recognised by its ``sample_idx``, passes unchanged.

    Args:
        size: Side, or height and width, to resize images to, bilinear and antialiased; None keeps their size.
        channels: 3 for RGB images, 1 for gray ones.

    Raises:
        SettingError: ``size`` is not one or two positive integers, or ``channels`` is neither 1 nor 3.

    Config example::

        pipeline=[dict(type='ImageAsInDataset', size=32), dict(type='PackInputs')]
    """

    def __init__(self, size: int | tuple[int, int] | None = None, channels: int = 3) -> None:
        sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
        if size is not None and not (len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
            raise SettingError(f'ImageAsInDataset: size={size!r} must be a positive integer, or height and width.')
        self.size = None if size is None else sides
        self.channels = checks.one_of(self, 'channels', channels, (3, 1))

    def transform(self, results: dict) -> dict:
        """Convert an image that is not from a dataset.

        Args:
            results: ``img``: uint8, ``H x W x 3``, BGR unless it is from a dataset; or ``H x W``, gray.

        Returns:
            The same with ``img``, RGB or gray, and ``img_shape``.
        """
        if 'sample_idx' in results:
            return results
        image = results['img']
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        if self.channels == 1:
            image = mmcv.bgr2gray(image) if image.ndim == 3 else image
        else:
            image = mmcv.bgr2rgb(image) if image.ndim == 3 else mmcv.gray2rgb(image)
        if self.size and image.shape[:2] != self.size:
            # Pillow averages over the pixels of a large image; OpenCV picks some of them
            image = mmcv.imresize(image, self.size[::-1], interpolation='bilinear', backend='pillow')
        return {**results, 'img': np.ascontiguousarray(image), 'img_shape': image.shape[:2]}
