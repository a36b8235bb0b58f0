"""Images that are not of the classes: generated, of a folder, of a config."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from icd_mmrazor.analysis.images import Images
from icd_mmrazor.analysis.unknown import unknown_images
from icd_mmrazor.errors import DatasetError, SettingError


def known(number: int = 6, channels: int = 3, source: str = 'RGB') -> Images:
    pixels = torch.randint(0, 256, (number, channels, 8, 10), generator=torch.Generator().manual_seed(0))
    return Images(pixels.to(torch.uint8), None, number, None, source)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'others').mkdir()
    for i in range(4):
        Image.fromarray(np.full((20, 30 + i, 3), (200, 100, 0), np.uint8)).save(tmp_path / 'others' / f'{i}.png')
    return tmp_path / 'others'


@pytest.mark.parametrize('what', ['noise', 'shuffled'])
def test_generated_images_are_seeded(what: str) -> None:
    images = known()
    found = [unknown_images(what, images, seed) for seed in (0, 0, 1)]
    assert found[0].shape == images.pixels.shape
    assert found[0].dtype == torch.uint8
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_shuffled_images_have_the_same_pixels_in_their_own_order() -> None:
    images = known()
    found = unknown_images('shuffled', images).flatten(2)
    for image, shuffled in zip(images.pixels.flatten(2), found, strict=True):
        assert not torch.equal(image, shuffled)
        assert sorted(image.T.tolist()) == sorted(shuffled.T.tolist())


@pytest.mark.parametrize(('source', 'colour'), [('RGB', [200, 100, 0]), ('BGR', [0, 100, 200])])
def test_images_of_a_folder_have_size_and_order_of_the_known(folder: Path, source: str, colour: list) -> None:
    found = unknown_images(str(folder), known(3, source=source))
    assert found.shape == (3, 3, 8, 10)
    assert found[0, :, 2, 2].tolist() == colour


def test_images_of_a_config(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / 'gray.npz', images=np.full((5, 16, 16), 77, np.uint8), labels=np.zeros(5, int))
    dataset = dict(type='NPZDataset', data_file=str(tmp_path / 'gray.npz'), pipeline=[dict(type='PackInputs')])
    Path('others.py').write_text(
        f"custom_imports=dict(imports=['icd_mmrazor'])\ntest_dataloader=dict(dataset={dataset})"
    )
    found = unknown_images('others.py', known())
    assert found.shape == (5, 3, 8, 10)
    assert found.unique().tolist() == [77]


def test_images_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DatasetError, match='no images'):
        unknown_images(str(tmp_path / 'empty'), known())
    with pytest.raises(SettingError, match='no such folder'):
        unknown_images('nose', known())
    with pytest.raises(SettingError, match='no such file'):
        unknown_images('missing.py', known())
    Path('none.py').write_text('model = dict()')
    with pytest.raises(SettingError, match='test_dataloader'):
        unknown_images('none.py', known())


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'notes.txt').write_text('no image')
    with pytest.raises(DatasetError, match='no images'):
        unknown_images(str(tmp_path / 'notes'), known())


def test_images_of_other_channels_are_refused(folder: Path) -> None:
    with pytest.raises(SettingError, match='channels'):
        unknown_images(str(folder), known(channels=4))
