"""Image files for networks that were trained on images in arrays."""

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from icd_mmrazor.errors import SettingError


@TRANSFORMS.register_module()
class ImageAsInDataset(BaseTransform):
    """Make an image that comes from elsewhere look as those of the dataset.

    mmpretrain's inferencers read image files with three channels, in the order BGR, and in their own size. Datasets
    that hold their images as arrays (CIFAR, :class:`NPZDataset`) give them in RGB, of one size, and some networks take
    images of one channel. The student files that a training exports have this transform in their test pipeline, so
    that one pipeline serves both. An image of a dataset, known by its ``sample_idx``, passes unchanged.

    Args:
        size: The side of the dataset's images, or their height and width. An image of another size is resized
            (bilinear, antialiased, its aspect ratio not kept). The size is left as it is unless given.
        channels: 3 for images in RGB, 1 for gray ones.

    Raises:
        SettingError: ``size`` is not one or two positive integers, or ``channels`` is neither 1 nor 3.

    Config example::

        pipeline=[dict(type='ImageAsInDataset', size=32), dict(type='PackInputs')]
    """

    def __init__(self, size: int | tuple[int, int] | None = None, channels: int = 3) -> None:
        sides = size if isinstance(size, list | tuple) else (size, size)
        if size is not None and not (len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)):
            raise SettingError(f'ImageAsInDataset: size={size!r} must be a positive integer, or height and width.')
        if channels not in (1, 3):
            raise SettingError(f'ImageAsInDataset: channels={channels!r} must be 3 (RGB) or 1 (gray).')
        self.channels = channels
        self.size = None if size is None else tuple(sides)

    def transform(self, results: dict) -> dict:
        """Turn an image that is of no dataset.

        Args:
            results: ``img``: uint8, ``H x W x 3``, BGR if it is of no dataset; or ``H x W``, gray.

        Returns:
            The same with ``img`` in RGB, or gray, of the wanted size, and ``img_shape``.
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
            # Pillow's, which averages over the pixels of a large image; OpenCV's picks some of them
            image = mmcv.imresize(image, self.size[::-1], interpolation='bilinear', backend='pillow')
        return {**results, 'img': np.ascontiguousarray(image), 'img_shape': image.shape[:2]}
