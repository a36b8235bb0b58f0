"""The size of the images in all pipelines of a config."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from icd_mmrazor import checks
from icd_mmrazor.configuration.type_names import dicts, type_name
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

# distillers of features; the latter compares maps in any case
DISTILLERS = ('FeatureDistiller', 'ICDDistiller', 'SimKDDistiller')


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


def image_shape_of(cfg: Mapping) -> tuple[int, int, int] | None:
    """Find the shape of the training images of a run, ``C x H x W``, from its config; None if it does not say."""
    pipeline = next(_pipelines((cfg.get('train_dataloader') or {}).get('dataset')), [])
    sizes = [_height_and_width(kind, each) for each, kind in _named(pipeline) if SIZES.get(kind) in each]
    if not sizes or sizes[-1] is None:
        return None
    model = cfg.get('model') or {}
    student = model.get('architecture')
    preprocessors = [each.get('data_preprocessor') for each in (model, cfg, student) if isinstance(each, Mapping)]
    means = [each['mean'] for each in preprocessors if each and each.get('mean') is not None]
    gray = any(str(each.get('color_type')).startswith('grayscale') for each, _ in _named(pipeline))
    channels = len(means[0]) if means and isinstance(means[0], Sequence) else 3
    return (1 if gray else channels, *sizes[-1])


def tell_distillers(cfg: Mapping, otherwise: Callable[[Mapping], tuple[int, ...] | None] | None = None) -> None:
    """Give our distillers of maps the shape of the images, in a config of a run, unless they have one.

    Connectors are built for the sizes of maps before a run has seen an image.

    Args:
        cfg: The config.
        otherwise: Finds the shape, ``C x H x W``, from the config if its training pipeline does not set a size; called
            only if a distiller needs it.
    """
    model = cfg.get('model')
    distiller = model.get('distiller') if isinstance(model, Mapping) else None
    untold = [part for part in dicts(distiller) if _needs_shape(part)]
    if not untold:
        return
    shape: tuple[int, ...] | None = image_shape_of(cfg)
    if shape is None and otherwise is not None:
        shape = otherwise(cfg)
    for part in untold if shape else ():
        part['image_shape'] = shape


def _needs_shape(part: Mapping) -> bool:
    entries, kind = part.get('losses'), type_name(part.get('type'))
    if kind not in DISTILLERS or 'image_shape' in part:
        return False
    return kind == DISTILLERS[-1] or (isinstance(entries, Mapping) and _of_maps(entries))


def _of_maps(entries: Mapping) -> bool:
    values = [each[key] for each in dicts(entries) for key in ('features', 'feature') if key in each]
    # a name or a list of names
    features = [name for value in values for name in (value if isinstance(value, list | tuple) else [value])]
    return not all(name in ('pooled', 'logits') for name in features)


def _height_and_width(kind: str, transform: Mapping) -> tuple[int, int] | None:
    size = transform[SIZES[kind]]
    if isinstance(size, int):
        return size, size
    if not isinstance(size, Sequence) or len(size) != 2 or transform.get('keep_ratio'):
        return None
    # the others have width and height
    return tuple(size) if kind in ('RandomCrop', 'RandomResizedCrop') else (size[1], size[0])


def _named(pipeline: list) -> Iterator[tuple[MutableMapping, str]]:
    for transform in pipeline:
        if isinstance(transform, MutableMapping):
            yield transform, type_name(transform.get('type'))


def _pipelines(dataset: Any) -> Iterator[list]:
    """Yield the pipelines of a dataset's config, also inside wrappers such as ``ConcatDataset``."""
    yield from (part['pipeline'] for part in dicts(dataset) if isinstance(part.get('pipeline'), list))
