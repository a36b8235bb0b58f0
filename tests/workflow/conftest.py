"""Small folders of images, and a small network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a folder of seeded images, ``{'cat': 4, 'dog': 3}``, bright or dark by class."""

    def write(classes: dict[str, int], name: str = 'images', size: int = 16) -> Path:
        generator = np.random.default_rng(0)
        for label, (cls, number) in enumerate(classes.items()):
            folder = tmp_path / name / cls
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                pixels = generator.integers(0, 60, (size, size, 3), dtype=np.uint8) + 60 * (label % 4)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i:02}.png')
        return tmp_path / name

    return write
