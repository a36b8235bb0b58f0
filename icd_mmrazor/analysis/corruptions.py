"""Common corruptions of images."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur as blurred

from icd_mmrazor.errors import SettingError, did_you_mean

STRENGTHS = (1, 2, 3, 4, 5)
CHUNK = 64  # images at a time; a part of what the seed gives
SIDE = 32  # of the images that the lengths are for
SMALLEST = 5  # the Gaussian of 32 pixels and fewer reaches 4, and what lies outside is reflected

# images of 0 to 1, B x C x H x W, the setting of a strength, and a generator
Function = Callable[[Tensor, Any, torch.Generator], Tensor]


class Corruption(NamedTuple):
    """A corruption.

    Args:
        function: Changes images of 0 to 1.
        settings: The setting of each strength.
        family: What it is like: ``'noise'``, ``'blur'``, ``'weather'`` or ``'digital'``.
    """

    function: Function
    settings: Sequence[Any]
    family: str


def unfit(images: Tensor) -> str:
    """Return what corruptions need if images are not like that, for a message; else an empty text.

    Args:
        images: ``N x C x H x W``.
    """
    channels, *size = images.shape[1:]
    if channels in (1, 3) and min(size) >= SMALLEST:
        return ''
    found = ' x '.join(map(str, images.shape[1:]))
    return f'gray or RGB images of at least {SMALLEST} x {SMALLEST} pixels, and these are {found}'


def corrupt(images: Tensor, name: str, strength: int, seed: int = 0) -> Tensor:
    """Corrupt images like those of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261).

    This is our own implementation. The settings of the five strengths are those of the authors' script for CIFAR-10-C
    (hendrycks/robustness at 8190fe3, ``make_cifar_c.py``). The images differ: theirs are made by scikit-image, OpenCV
    and ImageMagick, which treat borders, rounding and interpolation in their own ways, and our fog is another fractal.
    Blurs grow with images of more than 32 pixels, by their shorter side.

    Args:
        images: uint8, RGB or gray, ``N x C x H x W``.
        name: A key of :data:`CORRUPTIONS`.
        strength: 1 to 5.
        seed: For random numbers.

    Returns:
        uint8, ``N x C x H x W``.

    Raises:
        SettingError: The corruption or its strength is unknown, the images have neither 1 nor 3 channels, or they are
            smaller than 5 x 5 pixels.
    """
    if name not in CORRUPTIONS:
        raise SettingError(f'corruption {name!r} is unknown.{did_you_mean(name, CORRUPTIONS)}')
    if strength not in STRENGTHS:
        raise SettingError(f'corruption {name}: strength={strength!r} must be one of {", ".join(map(str, STRENGTHS))}.')
    if lacking := unfit(images):
        raise SettingError(f'corruption {name} needs {lacking}. Leave corruptions out, or give other images.')
    corruption, generator = CORRUPTIONS[name], torch.Generator().manual_seed(seed)
    changed = [
        corruption.function(part.float() / 255, corruption.settings[strength - 1], generator)
        for part in images.split(CHUNK)
    ]
    return torch.cat([(255 * part.clamp(0, 1)).round().to(torch.uint8) for part in changed])


def _scale(images: Tensor) -> float:
    return max(1.0, min(images.shape[-2:]) / SIDE)


def gaussian_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add normal noise."""
    return images + deviation * torch.randn(images.shape, generator=generator)


def shot_noise(images: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    """Draw the value of each pixel as a number of photons, which is Poisson distributed."""
    return torch.poisson(images * photons, generator) / photons


def impulse_noise(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set a share of the values to 0 or 1."""
    drawn = torch.rand(images.shape, generator=generator)
    return torch.where(drawn < share / 2, 1.0, torch.where(drawn < share, 0.0, images))


def speckle_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add normal noise in proportion to the value."""
    return images + images * deviation * torch.randn(images.shape, generator=generator)


def gaussian_blur(images: Tensor, sigma: float, _: torch.Generator) -> Tensor:
    """Blur with a Gaussian, up to four standard deviations."""
    sigma *= _scale(images)
    return blurred(images, [2 * int(4 * sigma + 0.5) + 1] * 2, [sigma] * 2)


def defocus_blur(images: Tensor, setting: tuple[float, float], _: torch.Generator) -> Tensor:
    """Blur with a disk of a radius, antialiased by a Gaussian of 3 x 3 pixels."""
    radius, sigma = setting[0] * _scale(images), setting[1]
    reach = torch.arange(-math.ceil(radius) - 1, math.ceil(radius) + 2)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).float()
    near = torch.exp(-(torch.arange(-1, 2) ** 2) / (2 * sigma**2))
    kernel = F.conv2d((disk / disk.sum())[None, None], torch.outer(near, near)[None, None] / near.sum() ** 2, padding=1)
    channels, pad = images.shape[1], len(reach) // 2
    padded = F.pad(images, [pad] * 4, 'reflect')
    return F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)


def _moved(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Shift each image by its own number of pixels, down and across; what lies outside is reflected."""
    height, width = images.shape[-2:]
    still, one = torch.zeros_like(down), torch.ones_like(down)
    shifts = torch.stack([one, still, -2 * across / width, still, one, -2 * down / height], 1).view(-1, 2, 3)
    grid = F.affine_grid(shifts, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode='reflection', align_corners=False)


def motion_blur(images: Tensor, setting: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Blur along a line at an angle of -45 to 45 degrees, with the weights of half a Gaussian."""
    radius, sigma = (value * _scale(images) for value in setting)
    angles = (torch.rand(len(images), generator=generator) - 0.5) * math.pi / 2
    steps = torch.arange(2 * math.ceil(radius) + 1.0)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    seen = [(step, weight) for step, weight in zip(steps, weights, strict=True) if weight > 1e-4]
    return sum(weight * _moved(images, step * angles.sin(), step * angles.cos()) for step, weight in seen)


def zoom_blur(images: Tensor, largest: float, _: torch.Generator) -> Tensor:
    """Average an image and its enlargements in steps of a hundredth."""
    factors = np.arange(1, largest, 0.01).tolist()  # as released: by its rounding, 1.06 and 1.11 have their end, too
    total = images.clone()
    for factor in factors:
        zoom = torch.tensor([[[1 / factor, 0, 0], [0, 1 / factor, 0]]]).expand(len(images), -1, -1)
        grid = F.affine_grid(zoom, list(images.shape), align_corners=False)
        total += F.grid_sample(images, grid, padding_mode='border', align_corners=False)
    return total / (len(factors) + 1)


def fog(images: Tensor, setting: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Add a cloud: random grids, each twice as fine as the last, and weaker by a factor."""
    amount, decay = setting
    cloud, weight, size = torch.zeros(len(images), 1, *images.shape[-2:]), 1.0, 2
    while size <= max(images.shape[-2:]):
        grid = torch.rand(len(images), 1, size, size, generator=generator)
        cloud += weight * F.interpolate(grid, images.shape[-2:], mode='bilinear', align_corners=True)
        weight, size = weight / decay, 2 * size
    low, high = cloud.amin((1, 2, 3), keepdim=True), cloud.amax((1, 2, 3), keepdim=True)
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * (cloud - low) / (high - low)) * brightest / (brightest + amount)


def brightness(images: Tensor, added: float, _: torch.Generator) -> Tensor:
    """Add to the value of the HSV colour, the highest of its channels."""
    value = images.amax(1, keepdim=True)
    brighter = (value + added).clamp(max=1)
    return torch.where(value > 0, images * brighter / value.clamp_min(1e-12), brighter)


def contrast(images: Tensor, factor: float, _: torch.Generator) -> Tensor:
    """Bring each channel closer to its mean."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def _by_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    arrays = (255 * images).round().to(torch.uint8).movedim(1, -1).numpy()
    changed = [
        np.asarray(change(Image.fromarray(array.squeeze(-1) if images.shape[1] == 1 else array))) for array in arrays
    ]
    return torch.tensor(np.stack(changed)).view(len(images), *images.shape[2:], -1).movedim(-1, 1).float() / 255


def pixelate(images: Tensor, factor: float, _: torch.Generator) -> Tensor:
    """Reduce the size by averaging, and enlarge the pixels."""
    size = [max(1, int(factor * side)) for side in images.shape[:1:-1]]
    box = Image.Resampling.BOX
    return _by_pillow(images, lambda image: image.resize(size, box).resize(image.size, box))


def jpeg_compression(images: Tensor, quality: int, _: torch.Generator) -> Tensor:
    """Write a JPEG file and read it."""

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, 'JPEG', quality=quality)
        return Image.open(file)

    return _by_pillow(images, compressed)


CORRUPTIONS: dict[str, Corruption] = {
    'gaussian_noise': Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), 'noise'),
    'shot_noise': Corruption(shot_noise, (500, 250, 100, 75, 50), 'noise'),
    'impulse_noise': Corruption(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), 'noise'),
    'speckle_noise': Corruption(speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20), 'noise'),
    'gaussian_blur': Corruption(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), 'blur'),
    'defocus_blur': Corruption(defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)), 'blur'),
    'motion_blur': Corruption(motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)), 'blur'),
    'zoom_blur': Corruption(zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26), 'blur'),
    'fog': Corruption(fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)), 'weather'),
    'brightness': Corruption(brightness, (0.05, 0.10, 0.15, 0.20, 0.30), 'weather'),
    'contrast': Corruption(contrast, (0.75, 0.50, 0.40, 0.30, 0.15), 'digital'),
    'pixelate': Corruption(pixelate, (0.95, 0.90, 0.85, 0.75, 0.65), 'digital'),
    'jpeg_compression': Corruption(jpeg_compression, (80, 65, 58, 50, 40), 'digital'),
}
