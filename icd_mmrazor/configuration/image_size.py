"""The size of the images in all pipelines of a config."""

from collections.abc import Iterator, MutableMapping
from typing import Any

from icd_mmrazor import checks
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError

# the setting of a transform that is the size of the images
SIZES = {
    'Resize': 'scale',
    'RandomCrop': 'crop_size',
    'CenterCrop': 'crop_size',
    'RandomResizedCrop': 'scale',
    'EfficientNetRandomCrop': 'scale',
    'EfficientNetCenterCrop': 'crop_size',
}
# settings in pixels that grow with it
MARGINS = {'RandomCrop': 'padding', 'ResizeEdge': 'scale', 'EfficientNetCenterCrop': 'crop_padding'}


def set_image_size(cfg: MutableMapping, size: int) -> None:
    """Set the size of the images in the pipelines of all dataloaders of a config, in place.

    Crops and resizes get the size; the padding of crops and the edge that precedes a centre crop grow in proportion.

    Args:
        cfg: The config: a recipe, also as ``_base_`` in a config that inherits it.
        size: Height and width in pixels.

    Raises:
        SettingError: The size is not a positive integer, or a pipeline does not set the size of its images.

    Config example::

        _base_ = ['icd_mmrazor::_base_/recipes/standard_small.py']
        from icd_mmrazor.configuration.image_size import set_image_size

        set_image_size(_base_, 64)
    """
    checks.positive_int('set_image_size', 'size', size)
    for split in ('train', 'val', 'test'):
        name = f'{split}_dataloader'
        for pipeline in _pipelines((cfg.get(name) or {}).get('dataset')):
            before = [each[SIZES[kind]] for each, kind in _named(pipeline) if SIZES.get(kind) in each]
            if not before:
                raise SettingError(
                    f'set_image_size: no transform of the pipeline of {name} sets the size of the images: '
                    f'{", ".join(kind for _, kind in _named(pipeline)) or "it is empty"}. Add a Resize.'
                )
            old = before[-1] if isinstance(before[-1], int) else max(before[-1])
            for transform, kind in _named(pipeline):
                if SIZES.get(kind) in transform:
                    transform[SIZES[kind]] = size
                if isinstance(transform.get(MARGINS.get(kind)), int):
                    transform[MARGINS[kind]] = round(transform[MARGINS[kind]] * size / old)


def _named(pipeline: list) -> Iterator[tuple[MutableMapping, str]]:
    for transform in pipeline:
        yield transform, type_name(transform.get('type'))


def _pipelines(dataset: Any) -> Iterator[list]:
    """Yield the pipelines of a dataset's config, also inside wrappers such as ``ConcatDataset``."""
    if not isinstance(dataset, MutableMapping):
        return
    if 'pipeline' in dataset:
        yield dataset['pipeline']
    for inside in (dataset.get('dataset'), *(dataset.get('datasets') or [])):
        yield from _pipelines(inside)
