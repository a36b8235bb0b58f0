"""The preparation of images for a network: channel order, normalisation, padding."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from icd_mmrazor.configuration.stored import read_settings
from icd_mmrazor.configuration.type_names import dicts, type_name
from icd_mmrazor.errors import SettingError

SPLITS = ('train', 'test', 'val')
TURNS = ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr')
# their images are arrays in the order of the published files
RGB_DATASETS = ('CIFAR10', 'CIFAR100', 'VerifiedCIFAR10', 'VerifiedCIFAR100', 'STL10')
OTHER_ORDER = {'RGB': 'BGR', 'BGR': 'RGB'}


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How images are prepared for a network."""

    kind: str  # type of the data preprocessor
    turned: bool  # whether it reverses the order of the channels
    mean: tuple[float, ...] = ()  # of each channel
    std: tuple[float, ...] = ()
    padding: tuple[int, float] = (1, 0)  # divisor of the padded size, value of the padding
    # order of the channels in the dataset: RGB, BGR, gray, or the type of another dataset or transform that reads them
    source: str | None = None

    @property
    def normalisation(self) -> str:
        """Mean, standard deviation and any padding, rounded, for messages and comparisons."""
        named = {'mean': self.mean, 'std': self.std}
        texts = [f'{name} {[round(value, 2) for value in values]}' for name, values in named.items() if values]
        if self.padding[0] > 1:
            texts.append(f'padding to multiples of {self.padding[0]} with {self.padding[1]}')
        return ', '.join(texts)

    @property
    def order(self) -> str:
        """Order of the channels that the network gets, for messages."""
        if self.source in OTHER_ORDER:
            return OTHER_ORDER[self.source] if self.turned else self.source
        return 'reversed from the dataset (to_rgb=True)' if self.turned else 'as in the dataset (to_rgb=False)'

    def has_order_of(self, other: 'Preparation') -> bool | None:
        """Return whether two networks get the channels in the same order, ``None`` if that is unknown.

        A dataset that is unknown is taken to be the other one.
        """
        if 1 in (len(self.mean), len(other.mean)) or 'gray' in (self.source, other.source):
            return True
        if None in (self.source, other.source) or self.source == other.source:
            return self.turned == other.turned
        if {self.source, other.source} <= OTHER_ORDER.keys():
            return self.order == other.order
        return None


def refuse_other_order(
    network: str, trained: Preparation | None, used: Preparation, gray: Callable[[], bool], run: str = 'this run'
) -> None:
    """Refuse images with another channel order than a network was trained on, as its checkpoint says.

    Args:
        network: The network, for the message: ``'the network'``.
        trained: How images were prepared in its training; ``None`` if that is unknown.
        used: How they are prepared now.
        gray: Returns whether all channels are alike; called last, since it may read images.
        run: What uses it now, for the message.

    Raises:
        SettingError: The order differs.
    """
    if trained is not None and trained.has_order_of(used) is False and not gray():
        raise SettingError(
            f'{network} was trained on images with channels {trained.order}, as its checkpoint says, and {run} gives '
            f'it {used.order}. Set data_preprocessor.to_rgb={not used.turned}.'
        )


def preparation_by(preprocessor: nn.Module | Mapping[str, Any], source: str | None = None) -> Preparation:
    """Describe what a data preprocessor, or its config, does to images; ``source`` is as in :class:`Preparation`."""
    settings, kind = preprocessor, None
    if isinstance(preprocessor, nn.Module):
        kind = type(preprocessor)
        settings = {
            name: getattr(preprocessor, name, None) for name in ('mean', 'std', 'pad_size_divisor', 'pad_value')
        }
        # mmengine's ImgDataPreprocessor only keeps whether it reverses them
        settings['to_rgb'] = any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion'))
    return Preparation(
        kind=type_name(kind or settings.get('type') or 'ClsDataPreprocessor'),
        turned=any(settings.get(name) for name in TURNS),
        mean=_values(settings.get('mean')),
        std=_values(settings.get('std')),
        padding=(settings.get('pad_size_divisor') or 1, settings.get('pad_value') or 0),
        source=source,
    )


def _values(values: Any) -> tuple[float, ...]:
    # in float32 like those of a built preprocessor: 123.675 would round differently
    values = torch.as_tensor(() if values is None else values, dtype=torch.float32)
    return tuple(values.flatten().tolist())


def preparation_in(cfg: Mapping[str, Any]) -> Preparation | None:
    """Describe how a run prepares its images, by its config; ``None`` if it does not say."""
    model, source = cfg.get('model'), source_of_images(cfg)
    if not isinstance(model, Mapping) or source is None:
        return None
    inner = model.get('architecture')
    of_student = inner.get('data_preprocessor') if isinstance(inner, Mapping) else None
    return preparation_by(model.get('data_preprocessor') or cfg.get('data_preprocessor') or of_student or {}, source)


def preparation_of_checkpoint(checkpoint: Mapping[str, Any]) -> Preparation | None:
    """Describe how the images were prepared that the weights in a checkpoint were trained on, if its config says so.

    The config is read as data, not run.
    """
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        return None
    try:
        return preparation_in(read_settings(text, 'the config in the checkpoint'))
    except (SettingError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError):  # of any text
        return None


def source_of_images(cfg: Mapping[str, Any], splits: Sequence[str] = SPLITS) -> str | None:
    """Return the channel order of a run's dataset, see ``Preparation.source``; the first split with a dataset counts.

    It is ``None`` if no dataset has a pipeline, or the pipeline itself normalises.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in dicts(loader.get('dataset') if isinstance(loader, Mapping) else None):
            if isinstance(dataset.get('pipeline'), list | tuple):
                return _source(dataset)
    return None


def _source(dataset: Mapping) -> str | None:
    transforms = (transform for transform in dataset['pipeline'] if isinstance(transform, Mapping))
    pipeline = {type_name(transform.get('type')): transform for transform in transforms}
    if 'Normalize' in pipeline:
        return None
    loaders = [name for name in pipeline if name.startswith('Load')]
    if loaders not in ([], ['LoadImageFromFile']):
        return ', '.join(loaders)
    if loaders:  # OpenCV reads BGR
        source = 'gray' if pipeline['LoadImageFromFile'].get('color_type') == 'grayscale' else 'BGR'
    else:
        name = type_name(dataset.get('type'))
        source = 'RGB' if name in RGB_DATASETS else name
    turns = [pipeline.get('NumpyToPIL', {}).get('to_rgb'), pipeline.get('PILToNumpy', {}).get('to_bgr')]
    return OTHER_ORDER.get(source, f'{source}, turned') if sum(map(bool, turns)) == 1 else source
