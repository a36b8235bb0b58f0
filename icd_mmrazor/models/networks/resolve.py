"""Configs of networks, however they are named."""

import copy
import importlib.util
import inspect
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmpretrain import list_models
from mmpretrain.apis.model import ModelHub
from mmpretrain.models import BaseClassifier, BaseRetriever, BaseSelfSupervisor
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from mmrazor.registry import MODELS as MMRAZOR_MODELS

from icd_mmrazor.compat.mmrazor_fixes import in_mmpretrain_scope
from icd_mmrazor.configuration.files import read_config_file
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError, did_you_mean
from icd_mmrazor.models.backbones import HuggingFaceBackbone
from icd_mmrazor.models.networks.hubs import hub_config, is_of_hub, name_of, with_published_weights
from icd_mmrazor.models.networks.pruned import PRUNED, is_pruned, with_subnet

FORMS = (
    "a config file, 'mmpretrain::resnet/resnet18_8xb32_in1k.py', a name of mmpretrain's model zoo, "
    "'timm/MODEL', 'hf/MODEL', dict(cfg_path=one of these, settings to change) or dict(type='ImageClassifier', ...)"
)


def network_config(network: str | dict, setting: str) -> ConfigDict:
    """Return the full config of a network, however it is named.

    Args:
        network: One of

            * a config file of a plain classifier: ``'configs/vanilla/res8_cifar100.py'``;
            * a config of an installed package: ``'mmpretrain::resnet/resnet18_8xb32_in1k.py'``;
            * a name of mmpretrain's model zoo: ``'resnet18_8xb32_in1k'``; of a self-supervised algorithm (MAE, BEiT,
              MoCo v3) it is the backbone;
            * ``'timm/MODEL'``, or ``'hf/MODEL'`` for Hugging Face
              (:func:`icd_mmrazor.models.networks.hubs.hub_config`);
            * ``dict(cfg_path=NAME, ...)``: one of these, with settings to change, such as
              ``head=dict(num_classes=10)``;
            * ``dict(type=..., ...)``: the config itself, of a classifier or of a backbone alone. Without a scope its
              type is mmpretrain's, unless only mmrazor has it.
        setting: Where it stands, for messages: ``'model.teacher'``.

    Returns:
        The model's config, with its ``_scope_`` if it needs one, the ``data_preprocessor`` of the config that it comes
        from, if there is one, and the contents of the file of a pruned network's subnet.

    Raises:
        SettingError: It is none of these, the file or name does not exist, or it is not a classifier.

    Config example::

        model = dict(
            type='FrozenTeacherDistill',
            teacher='resnet34_8xb32_in1k',
            architecture=dict(cfg_path='resnet18_8xb32_in1k', backbone=dict(frozen_stages=1)))
    """
    if isinstance(network, dict) and 'type' in network:
        return _complete(network, setting)
    name = name_of(network)
    if name is None:
        raise SettingError(f'{setting}={network!r} does not name a classifier. Give {FORMS}.')
    changes = {key: value for key, value in network.items() if key != 'cfg_path'} if isinstance(network, dict) else {}
    if is_of_hub(name):
        return hub_config(name, setting, changes)
    if changes.pop('pretrained', False):
        raise SettingError(
            f"{setting}: pretrained={network['pretrained']!r} is not read here. Give a teacher's weights as "
            "model.teacher_ckpt=FILE, a student's initial weights as init_cfg=dict(type='Pretrained', checkpoint=FILE)."
        )
    cfg = _read(name, setting)
    if not isinstance(cfg.get('model'), dict) or 'type' not in cfg.model:
        found = ', '.join(sorted(cfg)[:8]) or 'nothing'
        raise SettingError(f'{setting}={name!r}: that config has no model=dict(type=...); it has {found}.')
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    cfg.merge_from_dict({'model': changes})
    model = _complete(cfg.model, setting)
    _check_is_network(model, f'{setting}={name!r}')
    return model


def published_weights(network: Any) -> str | None:
    """Return the address of the weights that mmpretrain's model zoo has for a teacher named by it, and log it."""
    name = name_of(network)
    weights = _zoo_entry(name).weights if name and name.lower() in list_models() else None
    if weights:
        print_log(
            f"teacher {name}: without a teacher_ckpt, mmpretrain's published weights are used, {weights}", 'current'
        )
    return weights


def name_networks_in_full(model: ConfigDict) -> None:
    """Replace the names of teacher and student in the config of a distillation by their full configs.

    A run's stored config then needs no other file, and keeps what a file contained at the time of the run. A teacher of
    the model zoo gets a ``teacher_ckpt``. So does each of several ``teachers``.
    """
    several = model.get('teachers') or []
    for settings in [each for each in several if isinstance(each, dict)] or [model]:
        random = settings.get('random_teacher', model.get('random_teacher'))
        if not settings.get('teacher_ckpt') and not random and settings.get('teacher') is not None:
            settings['teacher_ckpt'] = published_weights(settings['teacher'])
            settings['teacher'] = with_published_weights(settings['teacher'])
        _in_full(settings, 'teacher')
    _in_full(model, 'architecture')


def _in_full(settings: dict, role: str) -> None:
    if name_of(settings.get(role)) or is_pruned(settings.get(role)):
        settings[role] = network_config(settings[role], f'model.{role}')


def _complete(network: dict, setting: str) -> ConfigDict:
    model = ConfigDict(in_mmpretrain_scope(network))
    if is_pruned(model):
        model = with_subnet(model, setting)
        key = PRUNED[type_name(model.type)]
        whole = model.get(key)
        # one whose weights mmengine.hub is to download is left to mmrazor
        if isinstance(whole, dict) and ('type' in whole or not whole.get('pretrained')):
            model[key] = network_config(copy.deepcopy(whole), f'{setting}.{key}')
        return model
    cls = class_of(model)
    if cls and issubclass(cls, BaseSelfSupervisor):
        return _pretrained_backbone(model)
    if cls and issubclass(cls, BaseBackbone | HuggingFaceBackbone):
        outer = {key: model.pop(key) for key in ('_scope_', 'data_preprocessor') if key in model}
        return ConfigDict({'type': 'mmpretrain.ImageClassifier', 'backbone': model, **outer})
    return model


def _pretrained_backbone(model: ConfigDict) -> ConfigDict:
    """Return the backbone of a self-supervised algorithm, as one that sees whole images."""
    backbone = copy.deepcopy(model.backbone)
    cls = class_of(backbone)
    # those that mask or shuffle patches take a mask; they derive from a network that does not
    if cls is not None and not _sees_whole_images(cls):
        own = inspect.signature(cls).parameters
        cls = next(base for base in cls.__mro__ if _sees_whole_images(base))
        accepted = inspect.signature(cls).parameters
        defaults = {
            name: parameter.default
            for name, parameter in own.items()
            if name in accepted
            and parameter.default not in (parameter.empty, accepted[name].default)
            # the layers of a sparse network are for masked images
            and 'Sparse' not in str(parameter.default)
        }
        backbone = ConfigDict({**defaults, **{name: value for name, value in backbone.items() if name in accepted}})
        backbone.type = f'mmpretrain.{cls.__name__}'
    parts = {key: model[key] for key in ('_scope_', 'data_preprocessor') if model.get(key)}
    if 'data_preprocessor' in parts:
        names = ('mean', 'std', 'to_rgb')
        parts['data_preprocessor'] = {k: v for k, v in parts['data_preprocessor'].items() if k in names}
    return ConfigDict({'type': 'mmpretrain.ImageClassifier', 'backbone': backbone, **parts})


def _sees_whole_images(cls: type) -> bool:
    return len(inspect.signature(cls.forward).parameters) == 2 and not cls.__name__.startswith('Sparse')


def class_of(network: ConfigDict) -> type | None:
    """Return the class that a config names; None if it is not registered, or a function."""
    kind = _registered(network)
    return kind if isinstance(kind, type) else None


def _registered(network: ConfigDict) -> Any:
    kind = network.get('type')
    if not isinstance(kind, str):
        return kind
    kind = type_name(kind)
    return MODELS.get(kind) or MMRAZOR_MODELS.get(kind)


def _read(name: str, setting: str) -> Config:
    if '::' in name:
        file = _file_of_package(name, setting)
    elif name.endswith('.py'):
        # this runs the file; read_config_text refuses one that a stored config names
        file = Path(name).expanduser()
    elif name.lower() in list_models():
        return _read_of_zoo(name, setting)
    else:
        hint = did_you_mean(name.lower(), list_models(), cutoff=0.5)
        raise SettingError(f"{setting}={name!r} is not a name of mmpretrain's model zoo.{hint} Or give {FORMS}.")
    return read_config_file(file, f'{setting}={name!r}:')


def _zoo_entry(name: str) -> Any:
    # not ModelHub.get, which also reads the config: some of mmpretrain's cannot be read
    return ModelHub._models_dict[name.lower()]


def _read_of_zoo(name: str, setting: str) -> Config:
    try:
        return read_config_file(_zoo_entry(name).config)
    except SettingError as error:
        raise SettingError(
            f"{setting}={name!r}: mmpretrain's own config of that network is broken. Use another network. {error}"
        ) from error


def _file_of_package(name: str, setting: str) -> Path:
    package, _, path = name.partition('::')
    # only packages of mmengine's table have configs; mmengine would install a missing one
    spec = importlib.util.find_spec(package) if package in MODULE2PACKAGE else None
    if spec is None or not spec.submodule_search_locations:
        raise SettingError(
            f'{setting}={name!r}: there is no installed package {package!r} with configs. Use mmpretrain:: or '
            'icd_mmrazor::.'
        )
    folder = Path(spec.submodule_search_locations[0], '.mim', 'configs')
    file = Path(folder, path if path.endswith('.py') else f'{path}.py')
    if '..' in file.parts or not file.is_relative_to(folder):
        raise SettingError(f'{setting}={name!r}: the path is outside the configs of {package}, {folder}.')
    return file


def _check_is_network(model: ConfigDict, what: str) -> None:
    kind = _registered(model)
    # an unregistered type is left to the registry; a function stands for a model whose packages are missing; a module
    # that is not a model of mmengine may be of the user's own
    networks = (BaseClassifier, BaseRetriever)
    is_network = isinstance(kind, type) and (issubclass(kind, networks) or not issubclass(kind, BaseModel))
    if kind is not None and not is_network:
        name = model.type if isinstance(model.type, str) else kind.__name__
        raise SettingError(
            f'{what} is of type {name}, not a classifier or a backbone. Name the config of a plain network: an '
            'ImageClassifier, or an ImageToImageRetriever.'
        )
