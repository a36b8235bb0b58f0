"""Tiny ImageNet from its folder as it is downloaded."""

from pathlib import Path
from typing import Any

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from icd_mmrazor.errors import DatasetError, SettingError

SPLITS = ('train', 'val')
MAX_LIST = 50_000_000  # bytes of a file that lists classes or images; the published have at most 2.7 million
URL = 'http://cs231n.stanford.edu/tiny-imagenet-200.zip'


@DATASETS.register_module()
class TinyImageNet(BaseDataset):
    """Tiny ImageNet: 200 classes of ImageNet at 64 x 64, 500 images of each for training, 50 for validation.

    Read is the folder that ``tiny-imagenet-200.zip`` unpacks to, as it is: ``wnids.txt`` (the classes), ``words.txt``
    (their names), ``train/WNID/images/*.JPEG``, and ``val/images/*.JPEG`` with ``val/val_annotations.txt``. Labels
    count the classes in the order of their WordNet ids. The test images have no labels. Nothing is downloaded.

    Args:
        data_root: The folder: ``tiny-imagenet-200``.
        split: ``'train'`` or ``'val'``.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``: ``pipeline``, which begins with
            ``LoadImageFromFile``, and ``indices``.

    Raises:
        SettingError: There is no such split.
        DatasetError: A file or a folder is missing or cannot be read, a class has no images, or an annotation is of no
            class, of no image, or of one that has another.

    Config example::

        dataset=dict(
            type='TinyImageNet', data_root='data/tiny-imagenet-200', split='val',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
    """

    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        if split not in SPLITS:
            raise SettingError(f'TinyImageNet: split={split!r} must be one of {", ".join(SPLITS)}.')
        self.folder = Path(data_root).expanduser()
        self.split = split
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images, without reading them.

        Returns:
            A dictionary with ``img_path`` and ``gt_label`` for each image.

        Raises:
            DatasetError: As the class says.
        """
        wnids = sorted(set(self._lines('wnids.txt')))
        if not wnids:
            raise self._error('wnids.txt names no classes')
        strange = next((wnid for wnid in wnids if not wnid.isalnum()), None)
        if strange is not None:  # it would be a path to somewhere else
            raise self._error(f'wnids.txt: {strange[:40]!r} is no WordNet id')
        names = dict(line.split('\t', 1) for line in self._lines('words.txt') if '\t' in line)
        self._metainfo.setdefault('classes', tuple(names.get(wnid, wnid).strip() for wnid in wnids))
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        return self._training_images(labels) if self.split == 'train' else self._validation_images(labels)

    def _training_images(self, labels: dict[str, int]) -> list[dict]:
        images = {wnid: self._images(f'train/{wnid}/images') for wnid in labels}
        return [
            {'img_path': path, 'gt_label': label} for wnid, label in labels.items() for path in images[wnid].values()
        ]

    def _validation_images(self, labels: dict[str, int]) -> list[dict]:
        annotations = 'val/val_annotations.txt'
        lines, images = self._lines(annotations), self._images('val/images')
        samples, annotated = [], set()
        for number, line in enumerate(lines, start=1):
            # the file and its class, then a box
            name, wnid, *_ = [*line.split('\t'), '', '']
            if wnid not in labels:
                raise self._error(f'{annotations}, line {number}: {wnid!r} is no class of wnids.txt')
            if name not in images:
                raise self._error(f'{annotations}, line {number}: there is no val/images/{name}')
            if name in annotated:
                raise self._error(f'{annotations}, line {number}: val/images/{name} has a line already')
            annotated.add(name)
            samples.append({'img_path': images[name], 'gt_label': labels[wnid]})
        if len(samples) != len(images):
            raise self._error(f'val/images has {len(images):,} images and {annotations} has {len(samples):,} lines')
        return samples

    def _images(self, folder: str) -> dict[str, str]:
        """Return the paths of a folder's images by their names, in the order of these."""
        path = self.folder / folder
        try:
            images = {file.name: str(file) for file in sorted(path.iterdir()) if file.suffix == '.JPEG'}
        except FileNotFoundError:
            raise self._error(f'there is no folder {folder}') from None
        except OSError as error:
            raise self._error(f'{folder} cannot be read ({error})') from error
        if not images:
            raise self._error(f'{folder} has no images (*.JPEG)')
        return images

    def _lines(self, name: str) -> list[str]:
        file = self.folder / name
        try:
            if file.stat().st_size > MAX_LIST:
                raise self._error(f'{name} has {file.stat().st_size:,} bytes; wanted are at most {MAX_LIST:,}')
            return file.read_text(encoding='utf-8').splitlines()
        except FileNotFoundError:
            raise self._error(f'there is no file {name}') from None
        except (OSError, ValueError) as error:
            raise self._error(f'{name} cannot be read ({error})') from error

    def _error(self, problem: str) -> DatasetError:
        return DatasetError(
            f'TinyImageNet: data_root={str(self.folder)!r} (working folder: {Path.cwd()}): {problem}.\nWanted is the '
            f'folder tiny-imagenet-200 as {URL} unpacks to, with nothing moved: wnids.txt, words.txt, '
            'train/WNID/images, val/images, val/val_annotations.txt. Unpack it in data/, or set data_root of '
            'train_dataloader.dataset, val_dataloader.dataset and test_dataloader.dataset to it.'
        )
