"""Corruptions: what all have in common, and some against other libraries."""

import colorsys

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from icd_mmrazor.analysis.corruptions import CHUNK, CORRUPTIONS, STRENGTHS, corrupt
from icd_mmrazor.errors import SettingError

RANDOM = {name for name, corruption in CORRUPTIONS.items() if corruption.family == 'noise'} | {'motion_blur', 'fog'}
NAMES = pytest.mark.parametrize('name', CORRUPTIONS)


def pictures(number: int = 4, channels: int = 3, side: int = 32) -> Tensor:
    """Return smooth random images, as photographs are, away from black and white."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(number, channels, 6, 6, generator=generator)
    smooth = interpolate(coarse, (side, side), mode='bicubic').clamp(0, 1)
    fine = torch.rand(number, channels, side, side, generator=generator)
    return (40 + 170 * (0.9 * smooth + 0.1 * fine)).round().to(torch.uint8)


def distance(images: Tensor, others: Tensor) -> float:
    return (images.float() - others.float()).square().mean().item()


@NAMES
def test_the_stronger_the_farther_from_the_original(name: str) -> None:
    images = pictures(16)
    distances = [distance(images, corrupt(images, name, strength)) for strength in STRENGTHS]
    assert distances[0] > 0
    assert distances == sorted(distances)
    assert distances[-1] > 1.3 * distances[0]


@NAMES
def test_images_keep_their_form_and_the_original_is_left_alone(name: str) -> None:
    for images in (pictures(2), pictures(1, channels=1), pictures(1, side=48)[..., :40], pictures(1, side=16)):
        before = images.clone()
        found = corrupt(images, name, 5)
        assert found.dtype == torch.uint8
        assert found.shape == images.shape
        assert torch.equal(images, before)


@NAMES
def test_a_seed_gives_the_same_images(name: str) -> None:
    images = pictures(3)
    first = corrupt(images, name, 3, seed=1)
    torch.manual_seed(5)  # other random numbers do not count
    assert torch.equal(first, corrupt(images, name, 3, seed=1))
    assert torch.equal(first, corrupt(images, name, 3, seed=2)) == (name not in RANDOM)


def test_each_image_has_its_own_noise() -> None:
    images = pictures(1).expand(CHUNK + 2, -1, -1, -1)
    found = corrupt(images, 'gaussian_noise', 5)
    assert len(found.flatten(1).unique(dim=0)) == CHUNK + 2


@pytest.mark.parametrize(('name', 'deviation'), [('gaussian_noise', 0.1), ('speckle_noise', 0.2 * 128 / 255)])
def test_deviation_of_noise(name: str, deviation: float) -> None:
    gray = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    noise = corrupt(gray, name, 5).double() / 255 - 128 / 255
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise.std().item() == pytest.approx(deviation, rel=0.02)


def test_photons_of_shot_noise() -> None:
    gray = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    found = corrupt(gray, 'shot_noise', 5).double() / 255
    # of a Poisson distribution mean and variance are equal
    assert found.var().item() * 50 == pytest.approx(found.mean().item(), rel=0.02)


def test_share_of_impulses() -> None:
    gray = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    found = corrupt(gray, 'impulse_noise', 5)
    assert set(found.unique().tolist()) == {0, 128, 255}
    for value in (0, 255):
        assert (found == value).double().mean().item() == pytest.approx(0.035, rel=0.05)


def test_gaussian_blur_is_that_of_scipy() -> None:
    images = pictures(2)
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, 1, 1), mode='mirror', truncate=4)
    assert np.abs(corrupt(images, 'gaussian_blur', 5).numpy() - expected).max() <= 0.51


def test_brightness_is_added_to_the_value_of_a_colour() -> None:
    colours = torch.tensor([[200, 100, 50], [0, 0, 0], [255, 255, 0], [30, 30, 31]], dtype=torch.uint8)
    found = corrupt(colours.view(4, 3, 1, 1), 'brightness', 5).view(4, 3)
    for colour, changed in zip(colours, found, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(colour.double() / 255).tolist())
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1)))
        np.testing.assert_allclose(changed, expected, atol=0.51)


def test_contrast_keeps_the_mean_of_a_channel() -> None:
    images = pictures(2)
    pixels = images.double().numpy()
    mean = pixels.mean((2, 3), keepdims=True)
    expected = mean + 0.15 * (pixels - mean)
    assert np.abs(corrupt(images, 'contrast', 5).numpy() - expected).max() <= 0.51


@pytest.mark.parametrize('name', ['gaussian_blur', 'defocus_blur', 'motion_blur', 'zoom_blur', 'pixelate', 'contrast'])
def test_what_averages_leaves_one_colour_as_it_is(name: str) -> None:
    image = torch.tensor([10, 100, 250], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert torch.equal(corrupt(image, name, 5), image)


def test_files_of_jpeg_are_made_image_by_image() -> None:
    images = pictures(3)
    found = corrupt(images, 'jpeg_compression', 5)
    # blocks of 8 x 8 are coded by themselves: brightness hardly changes
    blocks = [each.double().mean(1).unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4)) for each in (images, found)]
    assert float((blocks[0] - blocks[1]).abs().max()) < 3
    assert torch.equal(corrupt(images[1:], 'jpeg_compression', 5), found[1:])


def test_motion_blur_follows_a_line() -> None:
    image = torch.zeros(8, 1, 33, 33, dtype=torch.uint8)
    image[:, :, 16, 16] = 255
    found = corrupt(image, 'motion_blur', 5).double()
    rows = torch.arange(33).double()
    for blurred in found[:, 0]:
        # its pixels are spread along one direction, which is closer to a row than to a column
        places = torch.stack(torch.meshgrid(rows, rows, indexing='ij'), -1)[blurred > 0]
        weights = blurred[blurred > 0] / blurred.sum()
        centre = (weights[:, None] * places).sum(0)
        values = torch.linalg.eigvalsh(((places - centre) * weights[:, None]).T @ (places - centre))
        assert values[1] > 5 * values[0]
        spread = (weights[:, None] * (places - centre).square()).sum(0)
        assert spread[1] >= spread[0]


def test_blur_grows_with_large_images() -> None:
    point = torch.zeros(1, 1, 97, 97, dtype=torch.uint8)
    point[..., 48, 48] = 255
    small = corrupt(point[..., 32:65, 32:65], 'defocus_blur', 5)
    assert (corrupt(point, 'defocus_blur', 5) > 0).sum() > 4 * (small > 0).sum()


def test_wrong_names_and_images_are_refused() -> None:
    images = pictures(1)
    with pytest.raises(SettingError, match='Did you mean gaussian_blur'):
        corrupt(images, 'gausian_blur', 1)
    with pytest.raises(SettingError, match='strength=6'):
        corrupt(images, 'fog', 6)
    with pytest.raises(SettingError, match='4 channels'):
        corrupt(images[:, [0, 1, 2, 0]], 'fog', 1)
