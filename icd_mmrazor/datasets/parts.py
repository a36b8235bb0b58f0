"""Datasets that are made of others."""

from typing import Any

from mmpretrain.registry import DATASETS

from icd_mmrazor.errors import DatasetError, SettingError


class TwoParts:
    """The images of one dataset, then those of another.

    mmengine's ``ConcatDataset`` accepts only its own kinds of datasets, all with the same classes.
    """

    @property
    def datasets(self) -> list[Any]:
        """Both parts, as in mmengine's ``ConcatDataset``."""
        raise NotImplementedError

    def full_init(self) -> None:
        """Read the annotations, if they have not been read yet."""
        for part in self.datasets:
            part.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of an image, with its position."""
        part, index, position = self._place(idx)
        return {**part.get_data_info(index), 'sample_idx': position}

    def _place(self, idx: int) -> tuple[Any, int, int]:
        """Return the part that an image is in, its index there, and its position in the whole."""
        first, second = self.datasets
        position = range(len(self))[idx]
        if position < len(first):
            return first, position, position
        return second, position - len(first), position

    def __len__(self) -> int:
        return sum(map(len, self.datasets))


def built_dataset(dataset: Any, owner: str, setting: str) -> Any:
    """Build a dataset from its config; ``owner`` and ``setting`` are for the error if it is not one."""
    built = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
    if not hasattr(built, 'get_data_info'):
        raise SettingError(
            f'{owner}: {setting} is a {type(dataset).__name__}; it must be a dataset of mmpretrain or mmengine, or its '
            f'config: {setting}=dict(type=...).'
        )
    return built


def filled_dataset(dataset: Any, owner: str, setting: str, empty: str) -> Any:
    """Build a dataset from its config and read its annotations.

    Args:
        dataset: The dataset or its config.
        owner: For the error if it is not one.
        setting: Likewise.
        empty: The error if it has no images.

    Raises:
        SettingError: It is neither a dataset nor a config.
        DatasetError: It has no images.
    """
    try:
        built = built_dataset(dataset, owner, setting)
        built.full_init()
    except ValueError as error:
        # mmengine's own way to say that there are no annotations
        if 'need at least one array to concatenate' not in str(error):
            raise
        raise DatasetError(empty) from error
    if not len(built):
        raise DatasetError(empty)
    return built


def data_samples_of(sample: Any, owner: str) -> list[Any]:
    """Return the data samples of an image, of which several views have one each."""
    found = sample.get('data_samples') if isinstance(sample, dict) else None
    found = found if isinstance(found, list) else [found]
    if not all(hasattr(each, 'set_metainfo') for each in found):
        raise DatasetError(
            f"{owner}: the dataset's pipeline returns no data_samples. End it with dict(type='PackInputs')."
        )
    return found
