"""Image files reach a network as the images of its dataset do."""

import cv2
import numpy as np
import pytest
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from icd_mmrazor.errors import SettingError


def transform(size: int | tuple | None, **results: object) -> np.ndarray:
    image = TRANSFORMS.build(dict(type='ImageAsInDataset', size=size))(results)
    assert image['img'].flags.c_contiguous
    return image['img']


def test_a_file_is_turned_to_rgb_and_resized_as_pillow_does() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    bgr = rgb[..., ::-1]
    assert np.array_equal(transform(None, img=bgr), rgb)
    assert np.array_equal(transform((40, 70), img=bgr), rgb)
    expected = np.asarray(Image.fromarray(rgb).resize((12, 12), Image.Resampling.BILINEAR))
    assert np.array_equal(transform(12, img=bgr), expected)
    assert transform((8, 16), img=bgr).shape == (8, 16, 3)


def test_a_file_is_turned_to_gray_as_opencv_does() -> None:
    bgr = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    as_in_dataset = TRANSFORMS.build(dict(type='ImageAsInDataset', channels=1, size=(40, 70)))
    gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    for image in (bgr, gray, gray[..., None]):
        assert np.array_equal(as_in_dataset(dict(img=image))['img'], gray)
    # an image of a gray file has three equal channels
    assert np.array_equal(as_in_dataset(dict(img=np.dstack([gray] * 3)))['img'], gray)
    assert np.array_equal(transform(None, img=gray), np.dstack([gray] * 3))
    assert as_in_dataset(dict(img=bgr, sample_idx=0))['img'] is bgr


def test_an_image_of_a_dataset_passes() -> None:
    image = np.zeros((5, 5, 3), np.uint8)
    assert transform(12, img=image, sample_idx=0) is image


@pytest.mark.parametrize('size', [0, (3,), 'large', (3, -1), 2.5])
def test_a_wrong_size_is_refused(size: object) -> None:
    with pytest.raises(SettingError, match='ImageAsInDataset: size='):
        TRANSFORMS.build(dict(type='ImageAsInDataset', size=size))


@pytest.mark.parametrize('channels', [0, 2, 4, 'gray'])
def test_other_channels_are_refused(channels: object) -> None:
    with pytest.raises(SettingError, match='ImageAsInDataset: channels='):
        TRANSFORMS.build(dict(type='ImageAsInDataset', channels=channels))
