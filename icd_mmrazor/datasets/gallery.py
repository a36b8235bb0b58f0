"""The images that a search finds."""

from typing import Any

from mmpretrain.registry import DATASETS

from icd_mmrazor.datasets.indexed import IndexedDataset
from icd_mmrazor.errors import DatasetError

EMPTY = (
    'GalleryDataset: the gallery has no images, so nothing can be found in it. Correct data_root, ann_file or indices '
    'of its dataset.'
)


@DATASETS.register_module()
class GalleryDataset(IndexedDataset):
    """The images of a gallery, each with its position in it (``sample_idx``), as mmpretrain's retrievers need it.

    Args:
        dataset: The dataset or its config, with the pipeline of a test. Labels are not read.

    Raises:
        SettingError: It is neither.
        DatasetError: It has no images.

    Config example::

        model=dict(type='ImageToImageRetriever', prototype=dict(
            batch_size=256,
            dataset=dict(
                type='GalleryDataset',
                dataset=dict(type='CustomDataset', data_root='data/images', with_label=False, pipeline=[...]))))
    """

    def __init__(self, dataset: Any) -> None:
        try:
            super().__init__(dataset)
            self.full_init()
        except ValueError as error:
            # mmengine's own way to say that there are no annotations
            if 'need at least one array to concatenate' not in str(error):
                raise
            raise DatasetError(EMPTY) from error
        if not len(self.dataset):
            raise DatasetError(EMPTY)
