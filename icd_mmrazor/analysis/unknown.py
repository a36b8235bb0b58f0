"""Images that a network was not trained for."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from icd_mmrazor.analysis.images import Images, read_images
from icd_mmrazor.configuration.files import read_config_file
from icd_mmrazor.datasets.extensions import EXTENSIONS
from icd_mmrazor.errors import DatasetError, SettingError

NOISE, SHUFFLED = 'noise', 'shuffled'
GENERATED = (NOISE, SHUFFLED)
OTHER_ORDER = {'RGB', 'BGR'}


def unknown_images(what: str, known: Images, seed: int = 0) -> Tensor:
    """Return images that are not of the classes of a test set: as many as of that, if there are so many.

    Args:
        what: ``'noise'``: every value is drawn from 0 to 255; ``'shuffled'``: the pixels of each test image, in a
            random order; a folder of images; or a config, whose ``test_dataloader`` (else ``val_dataloader``) has them.
            Images of files and datasets get the size and the order of the channels of the test images.
        known: The test images.
        seed: For random numbers, and for which images are taken.

    Returns:
        uint8, ``N x C x H x W``.

    Raises:
        DatasetError: The folder or dataset has no images.
        SettingError: The folder or config does not exist, or the number of channels differs.
    """
    generator, shape = torch.Generator().manual_seed(seed), known.pixels.shape
    if what == NOISE:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    if what == SHUFFLED:
        order = torch.rand(len(known), 1, shape[2] * shape[3], generator=generator).argsort(-1)
        return known.pixels.flatten(2).gather(2, order.expand(-1, shape[1], -1)).view(shape)
    settings, scope = _of_folder(Path(what), shape) if Path(what).is_dir() else _of_config(what)
    found = read_images(settings, scope, len(known), seed, f'ood {what}')
    return _alike(found, known, what)


def _of_folder(folder: Path, shape: torch.Size) -> tuple[dict[str, Any], str]:
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(shape[3], shape[2]), backend='pillow'),
        dict(type='PackInputs'),
    ]
    dataset = dict(type='CustomDataset', data_root=str(folder), with_label=False, pipeline=pipeline)
    dataset['extensions'] = EXTENSIONS
    if not any(file.suffix.lower() in EXTENSIONS for file in folder.rglob('*')):
        raise DatasetError(f'ood {folder}: the folder has no images. Name a folder that has some.')
    return {'dataset': dataset}, 'mmpretrain'


def _of_config(file: str) -> tuple[dict[str, Any], str]:
    if not file.endswith('.py'):
        raise SettingError(
            f'ood {file}: there is no such folder. Give a folder of images, a config file, or one of '
            f'{", ".join(GENERATED)}.'
        )
    cfg = read_config_file(file, 'ood')
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not loader:
        raise SettingError(f'ood {file}: the config has no test_dataloader, so no images. Give another one.')
    return loader, cfg.get('default_scope') or 'mmpretrain'


def _alike(found: Images, known: Images, what: str) -> Tensor:
    pixels, (channels, *size) = found.pixels, known.pixels.shape[1:]
    if pixels.shape[1] == 1 != channels:
        pixels = pixels.expand(-1, channels, -1, -1)
    if pixels.shape[1] != channels:
        raise SettingError(
            f'ood {what}: its images have {pixels.shape[1]} channels, the test images {channels}. Name other images.'
        )
    if {found.source, known.source} == OTHER_ORDER and channels == 3:
        pixels = pixels.flip(1)
    if list(pixels.shape[2:]) != size:
        resized = interpolate(pixels.float(), size, mode='bilinear', antialias=True)
        pixels = resized.round().clamp(0, 255).to(torch.uint8)
    return pixels
