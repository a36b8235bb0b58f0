"""STL-10 from its binary files."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from icd_mmrazor.errors import DatasetError, SettingError

SPLITS = ('train', 'test')
SIDE = 96
BYTES = 3 * SIDE * SIDE
URL = 'https://cs.stanford.edu/~acoates/stl10/'


@DATASETS.register_module()
class STL10(BaseDataset):
    """The labelled images of STL-10 (Coates, Ng and Lee, AISTATS 2011): 5000 for training, 8000 for testing, 96 x 96.

    They are read from the binary files of ``stl10_binary.tar.gz``, unpacked: ``train_X.bin``, ``train_y.bin``,
    ``test_X.bin`` and ``test_y.bin``. The unlabelled images are not used. Nothing is downloaded.

    Args:
        data_root: Folder of the files: ``stl10_binary``.
        split: ``'train'`` or ``'test'``.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``: ``pipeline``, ``indices``.

    Raises:
        SettingError: There is no such split.
        DatasetError: A file is missing, cannot be read or has another size than its images and labels take, or a label
            is none of 1 to 10.

    Config example::

        dataset=dict(type='STL10', data_root='data/stl10_binary', split='train', pipeline=[dict(type='PackInputs')])
    """

    METAINFO: ClassVar[dict] = {
        'classes': ('airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck'),
    }

    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        if split not in SPLITS:
            raise SettingError(f'STL10: split={split!r} must be one of {", ".join(SPLITS)}.')
        self.folder = Path(data_root).expanduser()
        self.split = split
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the files.

        Returns:
            A dictionary with ``img`` (``96 x 96 x 3``, uint8, RGB) and ``gt_label`` (0 to 9) for each image.

        Raises:
            DatasetError: As the class says.
        """
        try:
            return self._read()
        except OSError as error:
            raise self._error(f'its files cannot be read ({error})') from error

    def _read(self) -> list[dict]:
        names = [f'{self.split}_{part}.bin' for part in 'Xy']
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise self._error(f'{" and ".join(missing)} not found')
        pixels_size, labels_size = ((self.folder / name).stat().st_size for name in names)
        if not labels_size or pixels_size != BYTES * labels_size:
            raise self._error(
                f'{names[0]} has {pixels_size:,} bytes and {names[1]} has {labels_size:,}; wanted are '
                f'{BYTES:,} bytes (3 x {SIDE} x {SIDE}) and one byte for each image, at least one image'
            )
        pixels, labels = (np.fromfile(self.folder / name, dtype=np.uint8) for name in names)
        if labels.min() < 1 or labels.max() > len(self.METAINFO['classes']):
            raise self._error(f'{names[1]} has labels from {labels.min()} to {labels.max()}; wanted are 1 to 10')
        # stored by channel, then by column
        images = np.ascontiguousarray(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1))
        return [{'img': image, 'gt_label': int(label) - 1} for image, label in zip(images, labels, strict=True)]

    def _error(self, problem: str) -> DatasetError:
        return DatasetError(
            f'STL10: data_root={str(self.folder)!r} (working folder: {Path.cwd()}): {problem}.\nGet '
            f'stl10_binary.tar.gz from {URL}, unpack it in data/, or set data_root of train_dataloader.dataset, '
            'val_dataloader.dataset and test_dataloader.dataset to the folder stl10_binary.'
        )
