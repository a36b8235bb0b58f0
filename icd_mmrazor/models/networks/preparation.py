"""How images are prepared for a network: order of the channels, normalisation, padding."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from icd_mmrazor.configuration.stored import read_settings
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError

SPLITS = ('train', 'test', 'val')
TURNS = ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr')
# datasets whose images are arrays in the order of the published files
RGB_DATASETS = ('CIFAR10', 'CIFAR100', 'VerifiedCIFAR10', 'VerifiedCIFAR100', 'STL10')
OTHER_ORDER = {'RGB': 'BGR', 'BGR': 'RGB'}


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What a network sees its images through.

    Attributes:
        kind: Type of the data preprocessor.
        turned: Whether it turns the order of the channels.
        mean: What it subtracts from each channel, rounded; empty: nothing.
        std: What it divides by.
        padding: Divisor of the padded size, and the value of the padding.
        source: The order of the channels in the dataset: ``'RGB'``, ``'BGR'``, what else gives the images, or ``None``
            where it is not known.
    """

    kind: str
    turned: bool
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    padding: tuple[int, float] = (1, 0)
    source: str | None = None

    @property
    def normalisation(self) -> str:
        """Mean and standard deviation, and what else is unusual."""
        texts = [f'{name} {list(values)}' for name, values in (('mean', self.mean), ('std', self.std)) if values]
        if self.padding[0] > 1:
            texts.append(f'padding to multiples of {self.padding[0]} with {self.padding[1]}')
        return ', '.join(texts)

    @property
    def order(self) -> str:
        """The order of the channels that a network gets, for messages."""
        if self.source in OTHER_ORDER:
            return OTHER_ORDER[self.source] if self.turned else self.source
        return 'the other than in the dataset (to_rgb=True)' if self.turned else 'as in the dataset (to_rgb=False)'

    def has_order_of(self, other: 'Preparation') -> bool | None:
        """Return whether two networks get the channels in one order.

        Args:
            other: That of the other network. Where one dataset is not known, it is taken to be the other one.

        Returns:
            ``None`` where it cannot be told.
        """
        if 1 in (len(self.mean), len(other.mean)) or 'gray' in (self.source, other.source):
            return True
        if None in (self.source, other.source) or self.source == other.source:
            return self.turned == other.turned
        if {self.source, other.source} <= OTHER_ORDER.keys():
            return self.order == other.order
        return None


def preparation_by(preprocessor: nn.Module | Mapping[str, Any], source: str | None = None) -> Preparation:
    """Return what a data preprocessor does.

    Args:
        preprocessor: The data preprocessor, or its config.
        source: The order of the channels in the dataset, if it is known.
    """
    if isinstance(preprocessor, nn.Module):
        settings = {name: getattr(preprocessor, name, None) for name in ('mean', 'std')}
        settings = {name: values.flatten().tolist() for name, values in settings.items() if values is not None}
        for name in ('pad_size_divisor', 'pad_value'):
            settings[name] = getattr(preprocessor, name, None)
        # mmengine's ImgDataPreprocessor keeps only whether it turns them
        settings['to_rgb'] = any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion'))
        kind: Any = type(preprocessor)
    else:
        settings, kind = preprocessor, preprocessor.get('type') or 'ClsDataPreprocessor'
    return Preparation(
        kind=type_name(kind),
        turned=any(settings.get(name) for name in TURNS),
        mean=_rounded(settings.get('mean')),
        std=_rounded(settings.get('std')),
        padding=(settings.get('pad_size_divisor') or 1, settings.get('pad_value') or 0),
        source=source,
    )


def _rounded(values: Any) -> tuple[float, ...]:
    # as a data preprocessor keeps them: 123.675 would be rounded otherwise
    return tuple(round(value, 2) for value in torch.tensor(list(values or ()), dtype=torch.float32).tolist())


def preparation_in(cfg: Mapping[str, Any]) -> Preparation | None:
    """Return how a run prepares its images, by its config.

    Args:
        cfg: The config of a training or a test, read or as plain values.

    Returns:
        ``None`` where it does not say so, as those of other times.
    """
    model = cfg.get('model')
    source = source_of_images(cfg)
    if not isinstance(model, Mapping) or source is None:
        return None
    inner = model.get('architecture')
    of_student = inner.get('data_preprocessor') if isinstance(inner, Mapping) else None
    return preparation_by(model.get('data_preprocessor') or cfg.get('data_preprocessor') or of_student or {}, source)


def preparation_of_checkpoint(checkpoint: Mapping[str, Any]) -> Preparation | None:
    """Return how the images were prepared that the weights in a checkpoint were trained on.

    Args:
        checkpoint: What was read from its file. The config in it is read, not run.

    Returns:
        ``None`` where the checkpoint does not say.
    """
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        return None
    try:
        return preparation_in(read_settings(text, 'the config in the checkpoint'))
    except (SettingError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError):  # a stranger's text
        return None


def source_of_images(cfg: Mapping[str, Any], splits: Sequence[str] = SPLITS) -> str | None:
    """Return in which order of the channels a run's dataset gives its images, before the data preprocessor.

    Args:
        cfg: The run's config.
        splits: Whose dataset counts: the first that there is.

    Returns:
        ``'RGB'``, ``'BGR'`` (image files, as OpenCV reads them), ``'gray'``, or what else gives the images; ``None``
        where there is no dataset with a pipeline, or the pipeline itself normalises.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in _with_pipeline(loader.get('dataset') if isinstance(loader, Mapping) else None):
            return _source(dataset)
    return None


def _with_pipeline(dataset: Any) -> Iterator[Mapping]:
    if isinstance(dataset, Mapping):
        if isinstance(dataset.get('pipeline'), list | tuple):
            yield dataset
        yield from _with_pipeline(dataset.get('dataset'))
        yield from _with_pipeline(dataset.get('datasets'))
    elif isinstance(dataset, list | tuple):
        for each in dataset:
            yield from _with_pipeline(each)


def _source(dataset: Mapping) -> str | None:
    pipeline = {
        type_name(transform.get('type')): transform
        for transform in dataset['pipeline']
        if isinstance(transform, Mapping)
    }
    if 'Normalize' in pipeline:
        return None
    loaders = [name for name in pipeline if name.startswith('Load')]
    if loaders not in ([], ['LoadImageFromFile']):
        return ', '.join(loaders)
    if loaders:
        source = 'gray' if pipeline['LoadImageFromFile'].get('color_type') == 'grayscale' else 'BGR'
    else:
        name = type_name(dataset.get('type'))
        source = 'RGB' if name in RGB_DATASETS else name
    turns = [pipeline.get('NumpyToPIL', {}).get('to_rgb'), pipeline.get('PILToNumpy', {}).get('to_bgr')]
    return OTHER_ORDER.get(source, f'{source}, turned') if sum(map(bool, turns)) == 1 else source
