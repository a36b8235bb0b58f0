"""The images that a search finds."""

from typing import Any

from mmpretrain.registry import DATASETS

from icd_mmrazor.datasets.indexed import IndexedDataset
from icd_mmrazor.datasets.parts import filled_dataset

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
        super().__init__(filled_dataset(dataset, 'GalleryDataset', 'dataset', EMPTY))
