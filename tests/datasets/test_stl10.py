"""STL-10 against torchvision's reader of the same files."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torchvision
from mmpretrain.registry import DATASETS
from PIL import Image
from transfer_data import write_stl10

from icd_mmrazor.errors import DatasetError, SettingError

PACK = [dict(type='PackInputs')]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stl10(tmp_path_factory.mktemp('data') / 'stl10_binary')


# unserialised: mmengine collects garbage when it serialises, which takes longer than a test
def build(folder: Path, split: str = 'train', **settings: object) -> object:
    return DATASETS.build(dict(type='STL10', data_root=str(folder), split=split, serialize_data=False, **settings))


@pytest.mark.parametrize(('split', 'size'), [('train', 20), ('test', 10)])
def test_images_and_labels_are_torchvisions(split: str, size: int, folder: Path) -> None:
    # its sums are those of the published files
    with mock.patch.object(torchvision.datasets.STL10, '_check_integrity', return_value=True):
        truth = torchvision.datasets.STL10(folder.parent, split)
    data = build(folder, split, pipeline=PACK)
    assert len(data) == len(truth) == size
    for sample, (image, label) in zip((data[i] for i in range(size)), truth, strict=True):
        assert np.array_equal(sample['inputs'].permute(1, 2, 0), image)
        assert sample['data_samples'].gt_label.item() == label
    assert ' '.join(data.metainfo['classes']) == 'airplane bird car cat deer dog horse monkey ship truck'
    assert len(build(folder, split, indices=3)) == 3


def test_the_config_resizes_as_pil_does(folder: Path) -> None:
    resize = dict(type='Resize', scale=(32, 32), backend='pillow')
    data = build(folder, pipeline=[resize, *PACK])
    image = Image.fromarray(build(folder).get_data_info(3)['img'])
    assert np.array_equal(data[3]['inputs'].permute(1, 2, 0), image.resize((32, 32), Image.Resampling.BILINEAR))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r'train_X\.bin and train_y\.bin not found(?s:.*)stl10_binary\.tar\.gz'):
        build(tmp_path)
    folder = write_stl10(tmp_path / 'stl10_binary', train=2, test=2)
    images, labels = folder / 'train_X.bin', folder / 'train_y.bin'
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r'train_X\.bin has 55,295 bytes and train_y\.bin 2; .* 27,648'):
        build(folder)
    labels.write_bytes(b'')
    images.write_bytes(b'')
    with pytest.raises(DatasetError, match=r'train_X\.bin has 0 bytes'):
        build(folder)
    (folder / 'test_y.bin').write_bytes(bytes([0, 11]))
    with pytest.raises(DatasetError, match=r'test_y\.bin has labels from 0 to 11'):
        build(folder, 'test')
    with pytest.raises(SettingError, match="STL10: split='unlabeled'"):
        build(folder, 'unlabeled')
