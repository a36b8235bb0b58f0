"""Thumbnails of a report, decoded by another library."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from icd_mmrazor.report.predictions import THUMBNAIL, _png


def decoded(inputs: torch.Tensor, source: str | None) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(_png(inputs, source))))


@pytest.mark.parametrize('source', ['RGB', 'BGR'])
def test_colours(source: str) -> None:
    image = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    expected = image if source == 'RGB' else image.flip(0)
    np.testing.assert_array_equal(decoded(image, source), expected.permute(1, 2, 0).numpy())


def test_gray_image() -> None:
    image = torch.randint(256, (1, 5, 7), dtype=torch.uint8)
    np.testing.assert_array_equal(decoded(image, 'gray'), image[0].numpy())


def test_other_numbers_of_channels_show_the_first() -> None:
    image = torch.randint(256, (6, 5, 7), dtype=torch.uint8)
    np.testing.assert_array_equal(decoded(image, None), image[0].numpy())


def test_normalised_image_is_spread() -> None:
    shown = decoded(torch.tensor([[[-1.5, 0.0], [0.75, 1.5]]]), None)
    np.testing.assert_array_equal(shown, [[0, 128], [191, 255]])


def test_large_image_is_shrunk_in_proportion() -> None:
    assert decoded(torch.full((3, 300, 150), 77, dtype=torch.uint8), 'BGR').shape == (THUMBNAIL, THUMBNAIL // 2, 3)
    assert (decoded(torch.full((1, 1000, 10), 77, dtype=torch.uint8), None) == 77).all()
