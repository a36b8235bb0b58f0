"""Readable errors about images."""

import os
from pathlib import Path

import pytest
from mmcv.transforms import LoadImageFromFile
from mmpretrain.registry import DATASETS

from icd_mmrazor.errors import DatasetError


@pytest.mark.parametrize(
    ('files', 'settings', 'message'),
    [
        ([], {}, 'Found: there is no such folder. Expected: a folder for each class with its images: .*/CLASS/IMAGE'),
        (['1.png', '2.png'], {}, 'Found: it holds 1.png, 2.png. Expected: a folder for each class'),
        (['cat/readme.txt'], {}, 'Found: it holds cat/. Expected: a folder for each class'),
        (['cat/1.png'], {'ann_file': 'labels.txt'}, 'labels.txt.*Expected: lines "IMAGE LABEL" in .*labels.txt'),
        (['cat/1.png'], {'classes': ['cat', 'dog']}, "doesn't match the number of specified classes"),
    ],
    ids=['absent', 'flat', 'no images', 'no annotations', 'classes'],
)
def test_a_folder_of_images_of_another_layout_is_explained(
    files: list[str], settings: dict, message: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'images' / name).touch()
    with pytest.raises(DatasetError, match=message):
        DATASETS.build(dict(type='CustomDataset', data_root=str(tmp_path / 'images'), pipeline=[], **settings))


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(os, 'scandir', deny)
    monkeypatch.setattr(Path, 'iterdir', deny)
    with pytest.raises(DatasetError, match=r'Found: it cannot be read \(Permission denied\)') as raised:
        DATASETS.build(dict(type='CustomDataset', data_root=str(tmp_path), pipeline=[]))
    assert isinstance(raised.value, PermissionError)


def test_an_image_is_named_by_an_error_of_the_original_class(tmp_path: Path) -> None:
    for content, kind in ((None, FileNotFoundError), (b'no image', AssertionError)):
        if content:
            (tmp_path / 'image.png').write_bytes(content)
        with pytest.raises(DatasetError, match=r'image\.png') as raised:
            LoadImageFromFile().transform({'img_path': str(tmp_path / 'image.png')})
        assert isinstance(raised.value, kind)
