"""Tiny ImageNet from its folder as it is downloaded."""

from pathlib import Path
from typing import Any

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from icd_mmrazor import checks
from icd_mmrazor.errors import DatasetError

MAX_LIST = 50_000_000  # bytes of a file that lists classes or images; the published ones have at most 2.7 million
URL = 'http://cs231n.stanford.edu/tiny-imagenet-200.zip'


@DATASETS.register_module()
class TinyImageNet(BaseDataset):
    """Tiny ImageNet: 200 classes of ImageNet at 64 x 64, 500 images of each for training, 50 for validation.

    Reads the folder of ``tiny-imagenet-200.zip`` as it is; nothing is downloaded. Labels count the classes in the order
    of their WordNet ids. The test images have no labels.

    Args:
        data_root: The folder: ``tiny-imagenet-200``.
        split: ``'train'`` or ``'val'``.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``: ``pipeline``, ``indices``.

    Raises:
        SettingError: There is no such split.
        DatasetError: A file or a folder is missing or damaged, or the annotations do not name each image once.

    Config example::

        dataset=dict(
            type='TinyImageNet', data_root='data/tiny-imagenet-200', split='val',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
    """

    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        self.split = checks.one_of(self, 'split', split, ('train', 'val'))
        self.folder = Path(data_root).expanduser()
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List ``img_path`` and ``gt_label`` of each image."""
        wnids = sorted(set(self._lines('wnids.txt')))
        if not wnids:
            raise self._error('wnids.txt names no classes')
        wrong = next((wnid for wnid in wnids if not wnid.isalnum()), None)
        if wrong is not None:  # it would be a path to somewhere else
            raise self._error(f'wnids.txt: {wrong[:40]!r} is not a WordNet id')
        names = dict(line.split('\t', 1) for line in self._lines('words.txt') if '\t' in line)
        self._metainfo.setdefault('classes', tuple(names.get(wnid, wnid).strip() for wnid in wnids))
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        if self.split == 'val':
            return self._validation_images(labels)
        return [
            {'img_path': path, 'gt_label': label}
            for wnid, label in labels.items()
            for path in self._images(f'train/{wnid}/images').values()
        ]

    def _validation_images(self, labels: dict[str, int]) -> list[dict]:
        annotations, images = 'val/val_annotations.txt', self._images('val/images')
        samples: dict[str, dict] = {}
        for number, line in enumerate(self._lines(annotations), start=1):
            # the file and its class, then a box
            name, wnid, *_ = [*line.split('\t'), '']
            problem = (
                f'{wnid!r} is not a class of wnids.txt'
                if wnid not in labels
                else f'val/images/{name} not found'
                if name not in images
                else f'val/images/{name} has a line already'
                if name in samples
                else None
            )
            if problem:
                raise self._error(f'{annotations}, line {number}: {problem}')
            samples[name] = {'img_path': images[name], 'gt_label': labels[wnid]}
        if len(samples) != len(images):
            raise self._error(f'val/images has {len(images):,} images and {annotations} {len(samples):,} lines')
        return [*samples.values()]

    def _images(self, folder: str) -> dict[str, str]:
        try:
            files = sorted((self.folder / folder).iterdir())
        except FileNotFoundError:
            raise self._error(f'folder {folder} not found') from None
        except OSError as error:
            raise self._error(f'{folder} cannot be read ({error})') from error
        images = {file.name: str(file) for file in files if file.suffix == '.JPEG'}
        if not images:
            raise self._error(f'{folder} has no images (*.JPEG)')
        return images

    def _lines(self, name: str) -> list[str]:
        file = self.folder / name
        try:
            if file.stat().st_size > MAX_LIST:
                raise self._error(f'{name} has {file.stat().st_size:,} bytes; expected at most {MAX_LIST:,}')
            return file.read_text(encoding='utf-8').splitlines()
        except FileNotFoundError:
            raise self._error(f'{name} not found') from None
        except (OSError, ValueError) as error:
            raise self._error(f'{name} cannot be read ({error})') from error

    def _error(self, problem: str) -> DatasetError:
        return DatasetError(
            f'TinyImageNet: data_root={str(self.folder)!r} (working folder: {Path.cwd()}): {problem}.\nUnpack {URL} in '
            'data/ and leave its files where they are, or set data_root of train_dataloader.dataset, '
            'val_dataloader.dataset and test_dataloader.dataset to the folder tiny-imagenet-200.'
        )
