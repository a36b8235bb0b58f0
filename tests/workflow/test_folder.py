"""Folders of images: layouts, what they hold, what is refused."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset
from PIL import Image

from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.workflow.folder import check_readable, read_folder, read_unlabeled
from icd_mmrazor.workflow.image_files import inspect_images
from icd_mmrazor.workflow.splits import split_off_validation, write_annotations


def dataset_of(root: Path, items: tuple, tmp_path: Path, **settings: object) -> CustomDataset:
    write_annotations(items, tmp_path / 'list.txt')
    return CustomDataset(data_root=str(root), ann_file=str(tmp_path / 'list.txt'), **settings)


def test_classes_are_as_in_mmpretrain(image_folder: Callable, tmp_path: Path) -> None:
    root = image_folder({'dog': 3, 'Cat': 2, 'a bird': 1})
    (root / 'dog' / 'deeper').mkdir()
    shutil.copy(root / 'dog' / '00.png', root / 'dog' / 'deeper' / 'UPPER.PNG')
    (root / 'dog' / 'notes.txt').write_text('ignored')
    folder, whole = read_folder(root), CustomDataset(data_root=str(root))
    assert folder.classes == whole.metainfo['classes']
    listed = dataset_of(root, folder.train, tmp_path, classes=list(folder.classes))

    def content(dataset: CustomDataset) -> set:
        return {(info['img_path'], int(info['gt_label'])) for info in map(dataset.get_data_info, range(len(dataset)))}

    assert content(listed) == content(whole)
    assert (len(folder.train), folder.val, folder.ignored) == (7, (), 1)


@pytest.mark.parametrize('val', ['val', 'valid', 'validation', 'test'])
def test_a_folder_with_a_validation_set(val: str, image_folder: Callable) -> None:
    image_folder({'cat': 3, 'dog': 2}, 'images/train')
    image_folder({'cat': 1, 'dog': 2}, f'images/{val}')
    folder = read_folder(image_folder({}))
    assert Counter(label for _, label in folder.train) == {0: 3, 1: 2}
    assert [file for file, _ in folder.val] == [f'{val}/cat/00.png', f'{val}/dog/00.png', f'{val}/dog/01.png']
    assert bool(folder.notes) == (val == 'test')


def test_classes_may_be_called_train_and_val(image_folder: Callable) -> None:
    folder = read_folder(image_folder({'car': 2, 'train': 2, 'val': 2}))
    assert folder.classes == ('car', 'train', 'val')


@pytest.mark.parametrize('name', ['Käse und Brötchen', ' leading blank', 'trailing blank ', '猫', "it's", 'a;b=c'])
def test_any_name_is_found_again_by_mmpretrain(name: str, image_folder: Callable, tmp_path: Path) -> None:
    root = image_folder({name: 2, 'other': 2}, name)
    file = next(root.glob('*/00.png'))
    file.rename(file.with_name(' x y .png'))
    folder = read_folder(root)
    dataset = dataset_of(root, folder.train, tmp_path)
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        assert Path(info['img_path']).is_file()
        assert Path(info['img_path']).parent.name == folder.classes[info['gt_label']]
    unlabeled = read_unlabeled(root)
    without = dataset_of(root, unlabeled.train, tmp_path, with_label=False)
    assert {Path(without.get_data_info(i)['img_path']) for i in range(4)} == {*root.glob('*/*.png')}


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        ({'cat': 2}, "one class, 'cat'"),
        ({}, 'no folders of classes'),
        ({'cat': 2, 'dog': 0}, "no images in class 'dog'"),
    ],
    ids=['one', 'none', 'empty'],
)
def test_too_few_classes_or_images_are_refused(classes: dict, message: str, image_folder: Callable) -> None:
    root = image_folder(classes)
    root.mkdir(exist_ok=True)
    with pytest.raises(DatasetError, match=message):
        read_folder(root)


@pytest.mark.parametrize(
    'parts', [('Train', 'Val'), ('training', 'Testing'), ('train', 'val', 'docs'), ('train_set', 'test', 'docs')]
)
def test_parts_with_other_names_are_not_taken_for_classes(parts: tuple, image_folder: Callable) -> None:
    for part in parts:
        image_folder({'.': 1} if part == 'docs' else {'cat': 2, 'dog': 2}, f'images/{part}')
    with pytest.raises(DatasetError, match="Call them 'train' and 'val'") as refused:
        read_folder(image_folder({}))
    assert all(repr(part) in str(refused.value) for part in parts)


def test_a_folder_for_images_without_labels_is_not_a_class(image_folder: Callable) -> None:
    folder = read_folder(image_folder({'cat': 2, 'dog': 2, 'unlabeled': 5}))
    assert folder.classes == ('cat', 'dog')
    assert len(folder.train) == 4


def test_loose_images_are_counted(image_folder: Callable) -> None:
    root = image_folder({'.': 3})
    with pytest.raises(DatasetError, match=r'3 images outside of one[^$]*--unlabeled'):
        read_folder(root)


def test_other_classes_to_validate_on_are_refused(image_folder: Callable) -> None:
    image_folder({'cat': 2, 'dog': 2}, 'images/train')
    image_folder({'cat': 1, 'dgo': 1}, 'images/val')
    with pytest.raises(DatasetError, match=r"train has 'dog' and val does not; val has 'dgo' and train does not"):
        read_folder(image_folder({}))


@pytest.mark.parametrize('path', ['missing', 'file', 'a\0b', '~nobody-of-this-name/images'])
def test_what_is_not_a_folder_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    for read, setting in ((read_folder, '--data'), (read_unlabeled, '--unlabeled')):
        with pytest.raises(SettingError, match=setting):
            read(path if path.startswith('~') else f'{tmp_path}/{path}')


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(DatasetError, match=r'--unlabeled .* has no images.*1 files'):
        read_unlabeled(tmp_path)


def damage(root: Path) -> None:
    """Truncate a JPEG and a PNG, empty a file, and write text in another."""
    large = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for kind in ('jpg', 'png'):
        file = root / 'cat' / f'truncated.{kind}'
        large.save(file)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    (root / 'cat' / 'empty.png').touch()
    (root / 'dog' / 'text.jpg').write_text('not an image')


def test_unreadable_images_are_named_and_counted(image_folder: Callable) -> None:
    root = image_folder({'cat': 2, 'dog': 2})
    damage(root)
    with pytest.raises(DatasetError, match='4 of 8 images') as refused:
        check_readable(read_folder(root), skip=False)
    for name in ('cat/truncated.jpg', 'cat/truncated.png', 'cat/empty.png (the file is empty)', 'dog/text.jpg'):
        assert name in str(refused.value)
    assert '--skip-unreadable' in str(refused.value)
    left, found = check_readable(read_folder(root), skip=True)
    assert {file for file, _ in left.train} == {f'{cls}/0{i}.png' for cls in ('cat', 'dog') for i in (0, 1)}
    assert len(found.unreadable) == 4
    assert '4 of 8' in left.notes[0]


def test_a_class_of_unreadable_images_alone_is_refused(image_folder: Callable) -> None:
    root = image_folder({'cat': 2, 'dog': 1})
    (root / 'dog' / '00.png').write_bytes(b'')
    with pytest.raises(DatasetError, match=r"no images that can be read in class 'dog'"):
        check_readable(read_folder(root), skip=True)


def test_modes_and_sizes_are_counted(tmp_path: Path) -> None:
    pixels = np.arange(12 * 10 * 4, dtype=np.uint8).reshape(12, 10, 4)
    rgb = Image.fromarray(pixels[..., :3])
    images = {
        'a.png': rgb,
        'gray.jpg': rgb.convert('L'),
        'alpha.png': Image.fromarray(pixels),
        'palette.png': rgb.convert('P'),
        'cmyk.jpg': rgb.convert('CMYK'),
        'deep.png': Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10)),
        'plain.tif': rgb,
        'large.webp': rgb.resize((30, 20)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    # Pillow does not write colors with 16 bits, and OpenCV, which trainings read with, no floating point
    cv2.imwrite(str(tmp_path / 'deep_rgb.png'), pixels[..., :3].astype(np.uint16))
    images['deep_rgb.png'] = None
    Image.fromarray(np.zeros((12, 10), np.float32)).save(tmp_path / 'float.tif')
    (unreadable,) = inspect_images(tmp_path, ['float.tif']).unreadable.values()
    assert unreadable == 'OpenCV cannot read this TIFF file, floating point'
    found = inspect_images(tmp_path, list(images))
    assert found.unreadable == {}
    assert found.converted == {
        '16 bits': 2, 'CMYK': 1, 'RGB with transparency': 1, 'gray': 1, 'palette': 1,
    }  # fmt: skip
    assert found.size_range == '10 x 12 to 30 x 20'
    # a training reads all of them with three channels of 8 bits
    pipeline = [dict(type='LoadImageFromFile')]
    dataset = dataset_of(tmp_path, tuple((name, 0) for name in images), tmp_path, pipeline=pipeline)
    for i in range(len(dataset)):
        assert (dataset[i]['img'].dtype, dataset[i]['img'].shape[2]) == (np.uint8, 3)


def test_the_split_is_stratified_and_repeatable(image_folder: Callable) -> None:
    folder = read_folder(image_folder({'a': 20, 'b': 5, 'c': 2}))
    split = split_off_validation(folder, 0.2, seed=3)
    assert Counter(label for _, label in split.val) == {0: 4, 1: 1, 2: 1}
    assert sorted(split.train + split.val) == sorted(folder.train)
    assert split_off_validation(folder, 0.2, seed=3) == split
    assert split_off_validation(folder, 0.2, seed=4).val != split.val
    # another class does not change the split of the others
    (folder.root / 'd').mkdir()
    for i in range(3):
        shutil.copy(folder.root / 'a' / f'0{i}.png', folder.root / 'd')
    more = split_off_validation(read_folder(folder.root), 0.2, seed=3)
    assert {item for item in more.val if item[1] < 3} == set(split.val)


def test_a_single_image_cannot_be_split(image_folder: Callable) -> None:
    with pytest.raises(DatasetError, match="class 'b' has one image"):
        split_off_validation(read_folder(image_folder({'a': 3, 'b': 1})), 0.2, 0)
