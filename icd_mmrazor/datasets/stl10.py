"""STL-10 from its binary files."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from icd_mmrazor import checks
from icd_mmrazor.errors import DatasetError

SIDE = 96
BYTES = 3 * SIDE * SIDE
URL = 'https://cs.stanford.edu/~acoates/stl10/'


@DATASETS.register_module()
class STL10(BaseDataset):
    """The labelled images of STL-10 (Coates, Ng and Lee, AISTATS 2011): 5000 for training, 8000 for testing, 96 x 96.

    Reads the unpacked ``stl10_binary.tar.gz``; nothing is downloaded. torchvision's ``STL10`` needs the 2.6 GB of
    unlabelled images as well, and hashes them at every start.

    Args:
        data_root: Folder of the files: ``stl10_binary``.
        split: ``'train'`` or ``'test'``.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``: ``pipeline``, ``indices``.

    Raises:
        SettingError: There is no such split.
        DatasetError: A file is missing, cannot be read or has the wrong size, or a label is not 1 to 10.

    Config example::

        dataset=dict(type='STL10', data_root='data/stl10_binary', split='train', pipeline=[dict(type='PackInputs')])
    """

    METAINFO: ClassVar[dict] = {
        'classes': ('airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck'),
    }

    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        self.split = checks.one_of(self, 'split', split, ('train', 'test'))
        self.folder = Path(data_root).expanduser()
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the files: ``img`` (``96 x 96 x 3``, uint8, RGB) and ``gt_label`` (0 to 9) of each image."""
        files = [self.folder / f'{self.split}_{part}.bin' for part in 'Xy']
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise self._error(f'{" and ".join(missing)} not found')
        try:
            pixels_size, labels_size = (file.stat().st_size for file in files)
            if not labels_size or pixels_size != BYTES * labels_size:
                raise self._error(
                    f'{files[0].name} has {pixels_size:,} bytes and {files[1].name} {labels_size:,}; expected '
                    f'{BYTES:,} (3 x {SIDE} x {SIDE}) and 1 for each image'
                )
            pixels, labels = (np.fromfile(file, dtype=np.uint8) for file in files)
        except OSError as error:
            raise self._error(f'its files cannot be read ({error})') from error
        if labels.min() < 1 or labels.max() > len(self.METAINFO['classes']):
            raise self._error(f'{files[1].name} has labels from {labels.min()} to {labels.max()}; expected 1 to 10')
        # stored by channel, then by column
        images = np.ascontiguousarray(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1))
        return [{'img': image, 'gt_label': int(label) - 1} for image, label in zip(images, labels, strict=True)]

    def _error(self, problem: str) -> DatasetError:
        return DatasetError(
            f'STL10: data_root={str(self.folder)!r} (working folder: {Path.cwd()}): {problem}.\nUnpack '
            f'stl10_binary.tar.gz from {URL} in data/, or set data_root of train_dataloader.dataset, '
            'val_dataloader.dataset and test_dataloader.dataset to the folder stl10_binary.'
        )
