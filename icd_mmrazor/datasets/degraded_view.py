"""Degraded views of images, for queries that search for the image."""

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError

# a weaker blur changes nothing
LEAST_BLUR = 0.1


@TRANSFORMS.register_module()
class DegradedView(BaseTransform):
    """A view of an image as a poor photo of it would be: cropped, shifted, of other colours, blurred and noisy.

    Each part is drawn anew for every image: crop, shift, colours and blur uniformly up to their settings, noise from a
    normal distribution. Those that are left out do nothing.
    :class:`~icd_mmrazor.datasets.queries.QueryDataset` makes queries of such views, fixed ones with a ``seed``.

    Required keys: ``img``, ``H x W x C``, uint8. The size stays the same.

    Args:
        crop: Least side of the part of the image that fills the view, as a share of the image's.
        shift: Most pixels that the image is moved by, in both directions; its edge is repeated.
        color: By how much brightness, contrast and the strength of each channel may change, as a share.
        blur: Largest standard deviation of a Gaussian blur, in pixels.
        noise: Standard deviation of the noise of each number, as a share of 255.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        pipeline=[dict(type='DegradedView', crop=0.8, shift=2, color=0.3, blur=1.0, noise=0.1), dict(type='PackInputs')]
    """

    def __init__(
        self, crop: float = 1.0, shift: int = 0, color: float = 0.0, blur: float = 0.0, noise: float = 0.0
    ) -> None:
        self.crop = checks.positive(self, 'crop', crop)
        if crop > 1:
            raise SettingError(f'DegradedView: crop={crop} must be at most 1, the whole image.')
        if type(shift) is not int or shift < 0:
            raise SettingError(f'DegradedView: shift={shift!r} must be a number of pixels, 0 or greater.')
        self.shift = shift
        self.color = checks.not_negative(self, 'color', color)
        self.blur, self.noise = checks.not_negative(self, 'blur', blur), checks.not_negative(self, 'noise', noise)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Degrade the image."""
        image = results['img']
        view = self._shifted(self._cropped(image)).astype(np.float32)
        if self.color:
            brightness, contrast = np.random.uniform(-self.color, self.color, 2)  # noqa: NPY002 seeded as mmcv's
            strength = 1 + np.random.uniform(-self.color, self.color, image.shape[2]) / 2  # noqa: NPY002
            mean = view.mean()
            view = ((view - mean) * (1 + contrast) + mean * (1 + brightness)) * strength
        if self.blur and (sigma := np.random.uniform(0, self.blur)) > LEAST_BLUR:  # noqa: NPY002
            view = cv2.GaussianBlur(view.astype(np.float32), (0, 0), sigma).reshape(image.shape)
        if self.noise:
            view = view + np.random.normal(0, 255 * self.noise, image.shape)  # noqa: NPY002
        results['img'] = view.round().clip(0, 255).astype(image.dtype)
        return results

    def _cropped(self, image: np.ndarray) -> np.ndarray:
        if self.crop == 1:
            return image
        height, width = image.shape[:2]
        share, down, right = np.random.uniform((self.crop, 0, 0), 1)  # noqa: NPY002
        inner = max(1, round(share * height)), max(1, round(share * width))
        top, left = round(down * (height - inner[0])), round(right * (width - inner[1]))
        part = np.ascontiguousarray(image[top : top + inner[0], left : left + inner[1]])
        return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR).reshape(image.shape)

    def _shifted(self, image: np.ndarray) -> np.ndarray:
        if not self.shift:
            return image
        (height, width), pad = image.shape[:2], self.shift
        top, left = np.random.randint(0, 2 * pad + 1, 2)  # noqa: NPY002
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode='edge')
        return padded[top : top + height, left : left + width]

    def __repr__(self) -> str:
        settings = ', '.join(f'{name}={value}' for name, value in vars(self).items())
        return f'{type(self).__name__}({settings})'
