"""Labelled images in one ``.npz`` file."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from icd_mmrazor import checks
from icd_mmrazor.errors import DatasetError

GB = 1e9
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@DATASETS.register_module()
class NPZDataset(BaseDataset):
    """Any ``.npz`` file with an array of images and an array of labels, such as MedMNIST's.

    Args:
        data_file: The file, relative to ``data_root`` if that is given.
        images_key: Name of the images: uint8, ``N x H x W (x 1)`` (gray, which become RGB) or ``N x H x W x 3`` (RGB).
        labels_key: Name of the labels: integers from 0, ``N`` or ``N x 1``.
        data_root: Folder of the file.
        max_memory: How much memory the arrays may take, in GB.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``, such as ``pipeline``, ``indices`` and ``classes``.

    Raises:
        SettingError: ``max_memory`` is not a positive number.
        DatasetError: The file is missing or damaged, or its arrays are not as described or too large.

    Config example::

        dataset=dict(
            type='NPZDataset', data_root='data', data_file='pathmnist.npz',
            images_key='train_images', labels_key='train_labels',
            pipeline=[dict(type='PackInputs')])
    """

    def __init__(
        self,
        data_file: str,
        images_key: str = 'images',
        labels_key: str = 'labels',
        data_root: str | None = None,
        max_memory: float = 4.0,
        **kwargs: Any,
    ) -> None:
        self.data_file = Path(data_root or '', data_file).expanduser()
        self.images_key = images_key
        self.labels_key = labels_key
        self.max_memory = checks.positive(self, 'max_memory', max_memory)
        super().__init__(ann_file='', data_root=data_root or '', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the file: ``img`` (``H x W x 3``, uint8) and ``gt_label`` of each image."""
        images, labels = self._read(self.images_key, self.labels_key)
        channels = images.shape[3:] or (1,)
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or channels not in ((1,), (3,)):
            raise self._error(
                f'images_key={self.images_key!r} is {images.dtype} {images.shape}; expected uint8, N x H x W (x 1 or 3)'
            )
        if not len(images):
            raise self._error(f'images_key={self.images_key!r} holds no images')
        if labels.shape[1:] == (1,):
            labels = labels[:, 0]
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
            raise self._error(
                f'labels_key={self.labels_key!r} is {labels.dtype} {labels.shape}; expected one integer for each of '
                f'the {len(images)} images'
            )
        classes = self.metainfo.get('classes')
        if labels.min() < 0 or (classes and labels.max() >= len(classes)):
            raise self._error(
                f'labels_key={self.labels_key!r} has labels from {labels.min()} to {labels.max()}; '
                f'expected 0 to {len(classes) - 1 if classes else "the number of classes less one"}'
            )
        images = images.reshape(*images.shape[:3], *channels)
        if channels == (1,):
            images = np.repeat(images, 3, axis=3)
        return [{'img': image, 'gt_label': int(label)} for image, label in zip(images, labels, strict=True)]

    def _read(self, *keys: str) -> list[np.ndarray]:
        try:
            if not self.data_file.is_file():
                raise self._error(f'file not found (working folder: {Path.cwd()}); set data_root and data_file')
            with zipfile.ZipFile(self.data_file) as archive:
                size = sum(self._size(archive, key) for key in keys) / GB
            if size > self.max_memory:
                raise self._error(f'its arrays take {size:,.3g} GB, more than max_memory={self.max_memory}; raise that')
            with np.load(self.data_file, allow_pickle=False) as arrays:
                return [arrays[key] for key in keys]
        except DatasetError:
            raise
        except Exception as error:  # a parser given any bytes raises anything
            raise self._error(f'it cannot be read as plain arrays ({error}); write it with numpy.savez') from error

    def _size(self, archive: zipfile.ZipFile, key: str) -> int:
        """Return how many bytes an array takes, according to its header; nothing else of it is unpacked."""
        found = [member for member in archive.infolist() if member.filename in (key, f'{key}.npy')]
        if not found:
            names = ', '.join(member.filename.removesuffix('.npy') for member in archive.infolist())
            raise self._error(f'it has no array {key}; it has: {names:.400}')
        if len(found) > 1:
            raise self._error(f'it has two arrays {key}')
        with archive.open(found[0]) as member:
            shape, _, dtype = HEADERS[np.lib.format.read_magic(member)](member)
            start = member.tell()
        if dtype.hasobject:
            raise self._error(f'{key} cannot be read as plain arrays: it holds Python objects, which can run any code')
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != found[0].file_size - start:
            raise self._error(f'{key} cannot be read as plain arrays: its data is not {dtype} {shape}')
        return size

    def _error(self, problem: str) -> DatasetError:
        return DatasetError(f'NPZDataset: {self.data_file}: {problem}.')
