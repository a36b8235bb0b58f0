"""Files of images."""

import dataclasses
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from icd_mmrazor.datasets.extensions import EXTENSIONS
from icd_mmrazor.machine import cores

# formats that Pillow and OpenCV read alike; of a TIFF file it depends on what is inside
COMMON_FORMATS = ('BMP', 'JPEG', 'MPO', 'PNG', 'PPM', 'WEBP')
# Pillow's modes; a training reads every image with three channels of 8 bits
MODES = {
    '1': 'black and white',
    'L': 'gray',
    'LA': 'gray with transparency',
    'P': 'palette',
    'PA': 'palette with transparency',
    'RGBA': 'RGB with transparency',
    'CMYK': 'CMYK',
    'I': '16 bits',
    'F': 'floating point',
}
GRAY = (MODES['1'], MODES['L'], MODES['LA'])


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """What an image file holds.

    Args:
        mode: ``'RGB'``, or one of the values of :data:`MODES`.
        size: Width and height.
        problem: Why it cannot be read; empty if it can.
    """

    mode: str = ''
    size: tuple[int, int] = (0, 0)
    problem: str = ''


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a set of image files holds.

    Args:
        modes: Number of readable images of each mode.
        sizes: Number of readable images of each width and height.
        unreadable: The reason for each file that cannot be read.
    """

    modes: Counter
    sizes: Counter
    unreadable: dict[str, str]

    @property
    def converted(self) -> dict[str, int]:
        """Number of images of each mode other than RGB."""
        return {mode: number for mode, number in sorted(self.modes.items()) if mode != 'RGB'}

    @property
    def gray(self) -> bool:
        """Whether all images are gray, so that the order of their channels does not matter."""
        return bool(self.modes) and set(self.modes) <= set(GRAY)

    @property
    def size_range(self) -> str:
        """The sizes in words: ``'16 x 16'`` or ``'200 x 150 to 1024 x 768'``."""
        if not self.sizes:
            return 'none'
        by_area = sorted(self.sizes, key=lambda size: size[0] * size[1])
        ends = list(dict.fromkeys((by_area[0], by_area[-1])))
        return ' to '.join(f'{width} x {height}' for width, height in ends)


def find_images(folder: Path) -> tuple[list[str], int]:
    """Find the image files in a folder and in those inside it.

    Returns:
        Their paths relative to the folder, with forward slashes, sorted; and the number of other files. Names that
        start with a dot are left out.
    """
    found, others = [], 0
    for directory, inner, files in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith('.')]
        for name in files:
            if name.startswith('.'):
                continue
            if name.lower().endswith(EXTENSIONS):
                found.append(Path(directory, name).relative_to(folder).as_posix())
            else:
                others += 1
    return sorted(found), others


def read_image_file(path: Path) -> ImageFile:
    """Decode an image to its end, at the lowest resolution that the format offers."""
    try:
        with Image.open(path) as image:
            kind, size, format_ = image.mode, image.size, image.format
            # of a color image with 16 bits, only the code of its decoder says so
            deep = kind.startswith('I') or any(';16' in str(tile) for tile in getattr(image, 'tile', ()))
            image.draft('RGB', (1, 1))  # a JPEG is decoded at an eighth of its size
            image.load()
        # OpenCV, which the training reads with, knows other formats
        if format_ not in COMMON_FORMATS and _decoded(path) is None:
            return ImageFile(problem=f'OpenCV cannot read this {format_} file, {MODES.get(kind, kind)}')
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        text = str(error).partition('\n')[0].replace(str(path), path.name)
        if path.is_file() and path.stat().st_size == 0:
            text = 'the file is empty'
        return ImageFile(problem=text[:120] or type(error).__name__)
    return ImageFile(MODES['I'] if deep else MODES.get(kind, kind), size)


def _decoded(path: Path) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)


def inspect_images(root: Path, files: Sequence[str]) -> Inspection:
    """Read image files in several threads; paths are relative to ``root``."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, cores())) as pool:
        warnings.simplefilter('ignore')  # of palettes, metadata and sizes; the threads share the filters
        found = [*pool.map(lambda file: read_image_file(root / file), files, chunksize=64)]
    return Inspection(
        Counter(each.mode for each in found if not each.problem),
        Counter(each.size for each in found if not each.problem),
        {file: each.problem for file, each in zip(files, found, strict=True) if each.problem},
    )
