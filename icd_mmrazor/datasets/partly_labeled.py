"""Datasets of images without labels, alone or after those with labels."""

from typing import Any

import numpy as np
from mmpretrain.registry import DATASETS

from icd_mmrazor.datasets.parts import TwoParts, built_dataset, data_samples_of
from icd_mmrazor.datasets.samples import LABELS, mark_unlabeled
from icd_mmrazor.errors import DatasetError


@DATASETS.register_module()
class UnlabeledDataset:
    """Any dataset, with its labels left out.

    A folder of images in any subfolders needs no wrapper: mmpretrain's ``CustomDataset(with_label=False)`` reads it.

    Args:
        dataset: The dataset or its config. If it has labels and class names, nothing sees them.

    Raises:
        SettingError: It is neither.

    Config example::

        train_dataloader=dict(dataset=dict(type='UnlabeledDataset', dataset=dict(type='ImageNet', ...)))
    """

    def __init__(self, dataset: Any) -> None:
        # not called dataset: what looks for labels in a wrapped dataset must not find them
        self.images = built_dataset(dataset, type(self).__name__, 'dataset')

    @property
    def metainfo(self) -> dict:
        """Empty: there are no classes."""
        return {}

    def full_init(self) -> None:
        """Read the annotations, if they have not been read yet."""
        self.images.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of an image, without a label."""
        info = self.images.get_data_info(idx)
        return {name: value for name, value in info.items() if name not in LABELS}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, idx: int) -> dict:
        sample = self.images[idx]
        for each in data_samples_of(sample, type(self).__name__):
            for name in LABELS:
                each.pop(name, None)
        return sample


@DATASETS.register_module()
class PartlyLabeledDataset(TwoParts):
    """Images with labels, then images without, for batches of both.

    A :class:`~icd_mmrazor.datasets.partly_labeled_sampler.PartlyLabeledBatchSampler` makes the batches. The student's
    own loss then counts the labelled images of a batch; the losses of the distiller count all of them.

    The position of an image (``sample_idx``) counts the labelled ones first. An image without a label has an empty
    ``gt_label``, so the labels of a batch, ``torch.cat([sample.gt_label for sample in data_samples])``, are those of
    its labelled images.

    Args:
        labeled: The dataset with labels, or its config. The classes are those that it names.
        unlabeled: The dataset without, or its config. If it has labels, nothing sees them.

    Raises:
        SettingError: One of them is not a dataset.
        DatasetError: One of them has no images.

    Config example, a folder with a folder for each class, and one of images in any subfolders::

        train_dataloader=dict(
            batch_size=64,
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='PartlyLabeledBatchSampler', unlabeled=48),
            dataset=dict(
                type='PartlyLabeledDataset',
                labeled=dict(type='CustomDataset', data_root='data/labelled', pipeline=[...]),
                unlabeled=dict(type='CustomDataset', data_root='data/more', with_label=False, pipeline=[...])))
    """

    def __init__(self, labeled: Any, unlabeled: Any) -> None:
        name = type(self).__name__
        self.labeled = built_dataset(labeled, name, 'labeled')
        self.unlabeled = UnlabeledDataset(built_dataset(unlabeled, name, 'unlabeled'))
        self.full_init()
        for setting in ('labeled', 'unlabeled'):
            if not len(getattr(self, setting)):
                raise DatasetError(f'{name}: {setting} has no images. Correct its data_root, or train without it.')

    @property
    def datasets(self) -> list[Any]:
        """Both parts, as in mmengine's ``ConcatDataset``."""
        return [self.labeled, self.unlabeled]

    @property
    def num_labeled(self) -> int:
        """Number of labelled images, which come first."""
        return len(self.labeled)

    @property
    def metainfo(self) -> dict:
        """Information about the labelled images, such as their classes."""
        return self.labeled.metainfo

    def get_gt_labels(self) -> np.ndarray:
        """Return the label of each image; -1 if it has none."""
        labels = [self.labeled.get_data_info(i)['gt_label'] for i in range(self.num_labeled)]
        return np.array([*labels, *[-1] * len(self.unlabeled)])

    def __getitem__(self, idx: int) -> dict:
        part, index, position = self._place(idx)
        sample = part[index]
        for each in data_samples_of(sample, type(self).__name__):
            each.set_metainfo({'sample_idx': position})
            if part is self.unlabeled:
                mark_unlabeled(each)
            elif not any(name in each for name in LABELS):
                raise DatasetError(
                    f'PartlyLabeledDataset: image {index} of labeled has no label. Give its dataset with_label=True, '
                    'or exchange labeled and unlabeled.'
                )
        return sample
