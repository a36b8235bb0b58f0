"""Networks that timm or Hugging Face publish, by name."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.config import ConfigDict
from torch import nn

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError, did_you_mean
from icd_mmrazor.models.networks.wrappers import unwrapped

HUBS = ('timm/', 'hf/')
# types that load published weights while they are built, with pretrained=True
LOAD_THEMSELVES = ('TimmClassifier', 'TIMMBackbone', 'HuggingFaceClassifier', 'HuggingFaceBackbone')
CLASSIFIER = 'ForImageClassification'
# settings of HuggingFaceClassifier that its network does not have
OF_CLASSIFIER = ('_scope_', 'type', 'num_labels', 'loss', 'train_cfg', 'with_cp', 'init_cfg')


def name_of(network: Any) -> str | None:
    """Return the name of a network that is given by one, alone or as ``dict(cfg_path=NAME, ...)``."""
    name = network.get('cfg_path') if isinstance(network, Mapping) and 'type' not in network else network
    return name if isinstance(name, str) and name else None


def is_of_hub(name: Any) -> bool:
    """Return whether a network is named as one of a hub: ``'timm/MODEL'`` or ``'hf/MODEL'``."""
    return isinstance(name, str) and name.startswith(HUBS)


def hub_config(name: str, setting: str, changes: Mapping[str, Any]) -> ConfigDict:
    """Return the config of a network of timm or Hugging Face, with the image preparation that it was published with.

    Args:
        name: ``'timm/MODEL'``, a name of ``timm.list_models()``, with a tag perhaps; or ``'hf/MODEL'``, a name on
            Hugging Face's hub or a folder that ``save_pretrained`` wrote.
        setting: Where it stands, for messages.
        changes: Settings to change. ``pretrained=True`` loads the published weights while the network is built, and
            ``num_classes`` gives it a classifier of so many classes; 0 leaves it out. Others are those of
            ``timm.create_model``, or of the config of Hugging Face.

    Raises:
        SettingError: The package is missing, or the network is unknown.
    """
    hub, _, model = name.partition('/')
    config = (_of_timm if hub == 'timm' else _of_hugging_face)(model, f'{setting}={name!r}', dict(changes))
    return ConfigDict(_scope_='mmpretrain', **config)


def backbone_of_hugging_face(classifier: Mapping[str, Any], setting: str) -> ConfigDict:
    """Return the config of the network of a ``HuggingFaceClassifier``, by its config, without its classifier."""
    changes = {key: value for key, value in classifier.items() if key not in OF_CLASSIFIER}
    return hub_config(f'hf/{changes.pop("model_name")}', setting, {**changes, 'num_classes': 0})


def with_published_weights(network: Any) -> Any:
    """Let a teacher that is named as one of a hub load its published weights; others are returned as they are.

    Raises:
        SettingError: It is to have a new classifier, which would be random.
    """
    name = name_of(network)
    if not is_of_hub(name):
        return network
    if isinstance(network, Mapping) and network.get('num_classes'):
        raise SettingError(
            f'model.teacher={dict(network)}: the published weights have no classifier of num_classes='
            f'{network["num_classes"]}. Leave it out for the published classifier, set 0 for none, or give a file with '
            'one as model.teacher_ckpt.'
        )
    return {'pretrained': True, **(network if isinstance(network, Mapping) else {}), 'cfg_path': name}


def loads_itself(network: Any) -> bool:
    """Return whether a network, by its config, loads published weights or a file while it is built."""
    return any(part.get('pretrained') or part.get('checkpoint_path') for part in _of_hubs(network))


def is_published_by_hub(network: Any) -> bool:
    """Return whether a network, by its config, is one of timm or Hugging Face."""
    return bool(_of_hubs(network))


def needed_by(network: Any) -> list[str]:
    """Return what a network, by its config, needs besides mmpretrain: ``['timm']``, or ``[]`` if it is of no hub."""
    return [
        'timm' if 'timm' in type_name(part['type']).lower() else f'transformers with the config of {name_in(part)!r}'
        for part in _of_hubs(network)
    ]


def name_in(network: Mapping[str, Any]) -> str:
    """Return the name that a network has in a hub, by its config: ``'resnet18'``."""
    return next((str(part['model_name']) for part in _of_hubs(network) if 'model_name' in part), '')


def _of_hubs(network: Any) -> list[Mapping[str, Any]]:
    parts = [network, network.get('backbone')] if isinstance(network, Mapping) else []
    return [part for part in parts if isinstance(part, Mapping) and type_name(part.get('type')) in LOAD_THEMSELVES]


def published_by_timm(network: nn.Module) -> Mapping[str, Any] | None:
    """Return what timm says of the images that the published weights of a network were trained on.

    None if it is not of timm, or has other classes than the published one, so that it was trained again.
    """
    *_, (_, model) = unwrapped(network)
    settings = getattr(model, 'pretrained_cfg', None)
    if not isinstance(settings, Mapping) or not {'mean', 'std', 'input_size'} <= settings.keys():
        return None
    classes = getattr(model, 'num_classes', 0)
    return settings if classes in (0, settings.get('num_classes')) else None


def preprocessor_of_timm(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a data preprocessor that prepares images as timm says; images are read as BGR."""
    return dict(mean=[255 * m for m in settings['mean']], std=[255 * s for s in settings['std']], to_rgb=True)


def _package(name: str, extra: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingError(
            f"{what} needs the package {name}, which is missing ({error}). pip install 'icd-mmrazor[{extra}]'."
        ) from error


def _of_timm(model: str, what: str, changes: dict[str, Any]) -> dict[str, Any]:
    timm = _package('timm', 'timm', what)
    arch, _, tag = model.partition('.')
    tags = {name.partition('.')[2] for name in timm.list_pretrained(f'{arch}.*')}
    if not timm.is_model(arch):
        hint = did_you_mean(arch.lower(), timm.list_models(), cutoff=0.5)
        raise SettingError(f"{what} is not a name of timm's networks.{hint} timm.list_models() lists them.")
    if tag and tag not in tags:
        known = ', '.join(sorted(tags)) or 'none'
        raise SettingError(f'{what}: timm has no weights with the tag {tag!r} for {arch}. Its tags are {known}.')
    settings = timm.models.get_pretrained_cfg(model)
    prepared = dict(data_preprocessor=preprocessor_of_timm(settings.to_dict())) if settings else {}
    return {'type': 'TimmClassifier', 'model_name': model, **prepared, **changes}


def _of_hugging_face(model: str, what: str, changes: dict[str, Any]) -> dict[str, Any]:
    transformers = _package('transformers', 'hf', what)
    folder = Path(model).expanduser()
    model = str(folder.absolute()) if folder.is_dir() else model
    try:
        config = transformers.AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:  # transformers' own are all of these
        raise SettingError(
            f'{what}: its config cannot be read. {_first_line(error)} Give a name on the hub of Hugging Face, or hf/ '
            'and a folder that save_pretrained wrote.'
        ) from error
    prepared = dict(data_preprocessor=prepared) if (prepared := _preprocessor_of_hugging_face(model)) else {}
    classes = changes.pop('num_classes', None)
    has_classifier = any(CLASSIFIER in name for name in getattr(config, 'architectures', None) or [])
    if classes or (has_classifier and classes is None):
        labels = {'num_labels': classes} if classes else {}
        return {'type': 'HuggingFaceClassifier', 'model_name': model, **labels, **prepared, **changes}
    outer = {key: changes.pop(key) for key in ('data_preprocessor', 'neck', 'head', 'train_cfg') if key in changes}
    backbone = {'type': 'HuggingFaceBackbone', 'model_name': model, **changes}
    return {'type': 'ImageClassifier', 'backbone': backbone, **prepared, **outer}


def _preprocessor_of_hugging_face(model: str) -> dict[str, Any] | None:
    mixin = importlib.import_module('transformers.image_processing_base').ImageProcessingMixin
    try:
        settings, _ = mixin.get_image_processor_dict(model)
    except (OSError, ValueError):  # it has none
        return None
    factor = settings.get('rescale_factor', 1 / 255) if settings.get('do_rescale', True) else 1.0
    normalises = settings.get('do_normalize', True) and settings.get('image_mean') and settings.get('image_std')
    mean, std = (settings['image_mean'], settings['image_std']) if normalises else ([0.0] * 3, [1.0] * 3)
    return dict(mean=[m / factor for m in mean], std=[s / factor for s in std], to_rgb=True)


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).strip().splitlines()[0]:.300}'
