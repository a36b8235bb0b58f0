"""Corruptions: what all have in common, and some against other libraries."""

import colorsys
import itertools

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from icd_mmrazor.analysis.corruptions import CHUNK, CORRUPTIONS, SMALLEST, STRENGTHS, corrupt
from icd_mmrazor.errors import SettingError

RANDOM = {name for name, corruption in CORRUPTIONS.items() if corruption.family == 'noise'} | {'motion_blur', 'fog'}
NAMES = pytest.mark.parametrize('name', CORRUPTIONS)
STRENGTH = pytest.mark.parametrize('strength', STRENGTHS)
# of make_cifar_c.py in hendrycks/robustness at 8190fe3; for zoom_blur, the largest factor itself
PUBLISHED = {
    'gaussian_noise': [0.04, 0.06, 0.08, 0.09, 0.1],
    'shot_noise': [500, 250, 100, 75, 50],
    'impulse_noise': [0.01, 0.02, 0.03, 0.05, 0.07],
    'speckle_noise': [0.06, 0.1, 0.12, 0.16, 0.2],
    'gaussian_blur': [0.4, 0.6, 0.7, 0.8, 1],
    'defocus_blur': [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    'motion_blur': [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    'zoom_blur': [1.06, 1.11, 1.15, 1.2, 1.25],
    'fog': [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    'brightness': [0.05, 0.1, 0.15, 0.2, 0.3],
    'contrast': [0.75, 0.5, 0.4, 0.3, 0.15],
    'pixelate': [0.95, 0.9, 0.85, 0.75, 0.65],
    'jpeg_compression': [80, 65, 58, 50, 40],
}


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
    for images in (pictures(2), pictures(1, channels=1), pictures(1, side=48)[..., :40], pictures(1, side=SMALLEST)):
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


def test_strengths_are_the_published_ones() -> None:
    assert {*CORRUPTIONS} == {*PUBLISHED}
    # zoom_blur has the ends of ranges, and a rewrite of its own below
    for name in {*PUBLISHED} - {'zoom_blur'}:
        assert [*CORRUPTIONS[name].settings] == PUBLISHED[name], name


@STRENGTH
def test_defocus_blur_is_that_of_opencv(strength: int) -> None:
    images = pictures(2)
    radius, sigma = PUBLISHED['defocus_blur'][strength - 1]
    disk = np.zeros((17, 17), np.float32)
    for down, across in itertools.product(range(17), repeat=2):
        disk[down, across] = (down - 8) ** 2 + (across - 8) ** 2 <= radius**2
    kernel = cv2.GaussianBlur(disk / disk.sum(), (3, 3), sigma)
    channels = images.numpy().astype(np.float32).reshape(-1, 32, 32)
    expected = np.stack([cv2.filter2D(channel, -1, kernel) for channel in channels]).reshape(images.shape)
    assert np.abs(corrupt(images, 'defocus_blur', strength).numpy() - expected).max() <= 0.51


@STRENGTH
def test_zoom_blur_is_the_mean_of_enlargements(strength: int) -> None:
    images = pictures(2)
    percent = round(100 * PUBLISHED['zoom_blur'][strength - 1])
    seen = [images.double().numpy()]
    for factor in np.arange(100, percent + 1) / 100:
        # the centre of the image stays where it is
        places = (np.arange(32) - 15.5) / factor + 15.5
        grid = np.meshgrid(places, places, indexing='ij')
        zoomed = [ndimage.map_coordinates(channel, grid, order=1) for channel in seen[0].reshape(-1, 32, 32)]
        seen.append(np.stack(zoomed).reshape(images.shape))
    assert np.abs(corrupt(images, 'zoom_blur', strength).numpy() - np.mean(seen, 0)).max() <= 0.51


def boxed(rows: np.ndarray, number: int) -> np.ndarray:
    """Resize the first axis: the mean of the old pixels whose centres lie in a new one, at least of the nearest."""
    scale, found = len(rows) / number, []
    for i in range(number):
        reach = max(scale, 1) / 2
        inside = [j for j in range(len(rows)) if -reach < j + 0.5 - (i + 0.5) * scale <= reach]
        found.append(rows[inside].mean(0))
    return np.floor(np.stack(found) + 0.5)


@STRENGTH
def test_pixels_of_pixelate_are_means(strength: int) -> None:
    images = pictures(2)
    side = int(32 * PUBLISHED['pixelate'][strength - 1])
    for image, found in zip(images.double().numpy(), corrupt(images, 'pixelate', strength).numpy(), strict=True):
        expected = image.transpose(2, 1, 0)  # the columns first, as Pillow does
        for size in (side, 32):
            expected = boxed(expected, size).transpose(1, 0, 2)
            expected = boxed(expected, size).transpose(1, 0, 2)
        np.testing.assert_allclose(found, expected.transpose(2, 1, 0), atol=1)
        assert (found == expected.transpose(2, 1, 0)).mean() > 0.99  # Pillow's weights are integers


@STRENGTH
def test_fog_lightens_a_gray_image_between_two_bounds(strength: int) -> None:
    gray = torch.full((3, 1, 32, 32), 128, dtype=torch.uint8)
    amount, _ = PUBLISHED['fog'][strength - 1]
    # where there is no cloud, and where there is most
    bounds = [128 * 128 / 255 / (128 / 255 + amount), 128]
    for image in corrupt(gray, 'fog', strength).double():
        assert [image.min().item(), image.max().item()] == pytest.approx(bounds, abs=0.51)


def test_brightness_is_added_to_the_value_of_a_colour() -> None:
    colours = torch.tensor([[200, 100, 50], [0, 0, 0], [255, 255, 0], [30, 30, 31]], dtype=torch.uint8)
    images = colours.view(4, 3, 1, 1).expand(-1, -1, SMALLEST, SMALLEST)
    found = corrupt(images, 'brightness', 5)[..., 2, 2]
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
    with pytest.raises(SettingError, match=r'gray or RGB images .* 4 x 32 x 32'):
        corrupt(images[:, [0, 1, 2, 0]], 'fog', 1)
    with pytest.raises(SettingError, match=r'at least 5 x 5 pixels.* 3 x 32 x 4'):
        corrupt(images[..., :4], 'gaussian_blur', 1)
