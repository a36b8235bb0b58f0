"""Tiny ImageNet against torchvision's reader of folders, and against PIL."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from helpers import CONFIGS
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from PIL import Image
from transfer_data import WNIDS, write_tiny_imagenet

from icd_mmrazor.errors import DatasetError, SettingError


# unserialised: mmengine collects garbage when it serialises, which takes longer than a test
def build(folder: Path, split: str = 'train', **settings: object) -> object:
    return DATASETS.build(
        dict(type='TinyImageNet', data_root=str(folder), split=split, serialize_data=False, **settings)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_imagenet(tmp_path / 'tiny-imagenet-200')


def listed(data: object) -> list[tuple[str, int]]:
    return [(sample['img_path'], sample['gt_label']) for sample in map(data.get_data_info, range(len(data)))]


def test_training_images_are_those_of_an_image_folder(folder: Path) -> None:
    truth = torchvision.datasets.ImageFolder(folder / 'train')
    data = build(folder)
    assert listed(data) == truth.samples
    assert data.metainfo['classes'] == tuple(f'name of {wnid}, another' for wnid in truth.classes)


def test_validation_images_have_their_annotated_classes(folder: Path) -> None:
    data = build(folder, 'val')
    # transfer_data gives the classes in turn
    wnids = [sorted(WNIDS)[label] for _, label in listed(data)]
    assert wnids == [*WNIDS, *WNIDS]
    assert [Path(path).name for path, _ in listed(data)] == [f'val_{i}.JPEG' for i in range(6)]
    assert data.metainfo['classes'] == build(folder).metainfo['classes']


def test_the_config_reads_and_resizes_as_pil_does(folder: Path) -> None:
    pipeline = Config.fromfile(CONFIGS / '_base_' / 'datasets' / 'tiny_imagenet.py').val_dataloader.dataset.pipeline
    data = build(folder, 'val', pipeline=pipeline)
    for index in (0, 1):  # the first is grey
        image = Image.open(folder / 'val' / 'images' / f'val_{index}.JPEG').convert('RGB')
        want = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
        assert np.array_equal(data[index]['inputs'].permute(1, 2, 0).numpy()[..., ::-1], want)


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


def empty(name: str) -> Callable[[Path], object]:
    return lambda folder: [file.unlink() for file in (folder / name).iterdir()]


@pytest.mark.parametrize(
    ('split', 'damage', 'message'),
    [
        ('train', lambda folder: (folder / 'wnids.txt').unlink(), r'wnids\.txt not found'),
        ('train', lambda folder: (folder / 'wnids.txt').write_text(''), r'wnids\.txt names no classes'),
        ('train', lambda folder: (folder / 'words.txt').write_bytes(b'\xff'), r'words\.txt cannot be read \(.*utf-8'),
        ('train', empty(f'train/{WNIDS[0]}/images'), rf'train/{WNIDS[0]}/images has no images \(\*\.JPEG\)'),
        ('train', lambda folder: (folder / 'train').rename(folder / 'x'), 'train/n01443537/images not found'),
        ('val', lambda folder: (folder / 'val' / 'images').rename(folder / 'x'), 'val/images not found'),
        ('val', replace('val/val_annotations.txt', WNIDS[1], 'n1'), r"annotations\.txt, line 2: 'n1'"),
        ('val', replace('val/val_annotations.txt', 'val_3', 'val_9'), r'line 4: val/images/val_9\.JPEG not found'),
        ('val', replace('val/val_annotations.txt', '\t', ' '), "line 1: ''"),
        ('val', lambda folder: (folder / 'val/images/a.JPEG').touch(), 'has 7 images and val/val_.* 6 lines'),
    ],
)
def test_a_damaged_folder_is_named(split: str, damage: Callable, message: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(DatasetError, match=f'data_root=.*{message}(?s:.*)http.*or set data_root'):
        build(folder, split)


def test_there_are_two_splits(folder: Path) -> None:
    with pytest.raises(SettingError, match="TinyImageNet: split='test'"):
        build(folder, 'test')
