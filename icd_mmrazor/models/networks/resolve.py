"""Any way to name a classifier."""

import copy
import difflib
import importlib.util
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio import load
from mmengine.logging import print_log
from mmpretrain import list_models
from mmpretrain.apis.model import ModelHub
from mmpretrain.models import BaseClassifier
from mmpretrain.registry import MODELS
from mmrazor.registry import MODELS as MMRAZOR_MODELS

from icd_mmrazor.compat.models import in_mmpretrain_scope
from icd_mmrazor.configuration.files import read_config_file
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError

FORMS = (
    "a config file ('my_resnet.py'), a package's config ('mmpretrain::resnet/resnet18_8xb32_in1k.py'), a name of "
    "mmpretrain's model zoo ('resnet18_8xb32_in1k'), dict(cfg_path=one of these, settings to change) or "
    "dict(type='ImageClassifier', ...)"
)

# what mmrazor builds a network with of which it keeps a subnet, and the setting that is the whole network
PRUNED = {'sub_model': 'cfg', 'GroupFisherDeploySubModel': 'architecture'}


def network_config(network: str | dict, setting: str) -> ConfigDict:
    """Return the full config of a classifier, however it is named.

    Args:
        network: One of

            * a config file of a plain classifier: ``'configs/vanilla/res8_cifar100.py'``;
            * a config of an installed package: ``'mmpretrain::resnet/resnet18_8xb32_in1k.py'``;
            * a name of mmpretrain's model zoo: ``'resnet18_8xb32_in1k'``;
            * ``dict(cfg_path=NAME, ...)``: one of these, and settings to change in it, such as
              ``head=dict(num_classes=10)``. mmrazor's ``pretrained=False`` says nothing here;
            * ``dict(type=..., ...)``: the config itself. Without a scope it is mmpretrain's, or mmrazor's where only
              mmrazor knows the type.
        setting: Where it stands, for messages: ``'model.teacher'``.

    Returns:
        The model's config, with its ``type``, its ``_scope_`` if it needs one, the ``data_preprocessor`` of the config
        that it comes from, if that has one, and in place of the file of a pruned network's subnet what is in it.

    Raises:
        SettingError: It is none of these, there is no such file or name, or what is named is no classifier.

    Config example::

        model = dict(
            type='FrozenTeacherDistill',
            teacher='resnet34_8xb32_in1k',
            architecture=dict(cfg_path='resnet18_8xb32_in1k', backbone=dict(frozen_stages=1)))
    """
    if isinstance(network, dict) and 'type' in network:
        return with_subnet(ConfigDict(in_mmpretrain_scope(network)), setting)
    name = _name(network)
    if name is None:
        raise SettingError(f'{setting}={network!r} names no classifier. Give {FORMS}.')
    changes = {key: value for key, value in network.items() if key != 'cfg_path'} if isinstance(network, dict) else {}
    if changes.pop('pretrained', False):
        raise SettingError(
            f"{setting}: pretrained={network['pretrained']!r} is not read here. A teacher's weights are "
            "model.teacher_ckpt=FILE; those that a student begins with are init_cfg=dict(type='Pretrained', "
            'checkpoint=FILE).'
        )
    cfg = _read(name, setting)
    if not isinstance(cfg.get('model'), dict) or 'type' not in cfg.model:
        found = ', '.join(sorted(cfg)[:8]) or 'nothing'
        raise SettingError(f'{setting}={name!r}: that config has no model=dict(type=...); it has {found}.')
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    cfg.merge_from_dict({'model': changes})
    model = with_subnet(ConfigDict(in_mmpretrain_scope(cfg.model)), setting)
    _check_is_classifier(model, f'{setting}={name!r}')
    return model


def published_weights(network: Any) -> str | None:
    """Return the address of the weights that mmpretrain's model zoo has for a network, and say so in the log.

    Args:
        network: As of :func:`network_config`.

    Returns:
        An ``https://`` address if the network is named by a name of the zoo that has weights; else None.
    """
    name = _name(network)
    weights = _zoo_entry(name).weights if name and name.lower() in list_models() else None
    if weights:
        print_log(
            f"teacher {name}: no teacher_ckpt is given; it gets mmpretrain's published weights, {weights}", 'current'
        )
    return weights


def name_networks_in_full(model: ConfigDict) -> None:
    """Put the full configs of teacher and student into the config of a distillation, in place of their names.

    A run's stored config then needs no other file, and says what a file held when the run began.

    Args:
        model: Config of a ``FrozenTeacherDistill``; changed. A teacher of the model zoo gets a ``teacher_ckpt``.

    Raises:
        SettingError: As of :func:`network_config`.
    """
    if not model.get('teacher_ckpt') and not model.get('random_teacher'):
        model.teacher_ckpt = published_weights(model.get('teacher'))
    for role in ('architecture', 'teacher'):
        if _name(model.get(role)) or is_pruned(model.get(role)):
            model[role] = network_config(model[role], f'model.{role}')


def _name(network: Any) -> str | None:
    name = network.get('cfg_path') if isinstance(network, dict) and 'type' not in network else network
    return name if isinstance(name, str) and name else None


def _read(name: str, setting: str) -> Config:
    if '::' in name:
        file = _file_of_package(name, setting)
    elif name.endswith('.py'):
        # it is run; read_config_text refuses one that a stored config names
        file = Path(name).expanduser()
    elif name.lower() in list_models():
        return _read_of_zoo(name, setting)
    else:
        close = difflib.get_close_matches(name.lower(), list_models(), n=4, cutoff=0.5)
        raise SettingError(
            f"{setting}={name!r} is no name of mmpretrain's model zoo. "
            + (f'Close to it: {", ".join(close)}. ' if close else '')
            + "mmpretrain.list_models('resnet*') lists names. "
            + f'Or give another form: {FORMS}.'
        )
    return read_config_file(file, f'{setting}={name!r}:')


def _zoo_entry(name: str) -> Any:
    # not ModelHub.get: it reads the config too, and some of mmpretrain's cannot be read
    return ModelHub._models_dict[name.lower()]


def _read_of_zoo(name: str, setting: str) -> Config:
    try:
        return read_config_file(_zoo_entry(name).config)
    except SettingError as error:
        raise SettingError(
            f"{setting}={name!r}: mmpretrain's own config of that network has a fault. Take another network. {error}"
        ) from error


def _file_of_package(name: str, setting: str) -> Path:
    package, _, path = name.partition('::')
    # the table first: no other package has configs, and mmengine would install a package that is missing
    spec = importlib.util.find_spec(package) if package in MODULE2PACKAGE else None
    if spec is None or not spec.submodule_search_locations:
        raise SettingError(
            f'{setting}={name!r}: there is no installed package {package!r} with configs. mmpretrain:: and '
            'icd_mmrazor:: are there.'
        )
    folder = Path(spec.submodule_search_locations[0], '.mim', 'configs')
    file = Path(folder, path if path.endswith('.py') else f'{path}.py')
    if '..' in file.parts or not file.is_relative_to(folder):
        raise SettingError(f'{setting}={name!r}: the path is not one in the configs of {package}, {folder}.')
    return file


def _check_is_classifier(model: ConfigDict, what: str) -> None:
    kind = model.type
    if isinstance(kind, str):
        kind = type_name(kind)
        kind = MODELS.get(kind) or MMRAZOR_MODELS.get(kind)
    # what is registered nowhere is for the registry to report; a function stands for what would need more packages
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, BaseClassifier)):
        name = model.type if isinstance(model.type, str) else kind.__name__
        raise SettingError(
            f'{what} is of type {name}, not a classifier. Name the config of a plain network: an ImageClassifier.'
        )


def is_pruned(network: Any) -> bool:
    """Return whether a config is one of mmrazor's for a network of which a subnet is kept: :data:`PRUNED`.

    Args:
        network: A network, in any form.
    """
    return isinstance(network, dict) and type_name(network.get('type')) in PRUNED


def unpruned(network: ConfigDict) -> ConfigDict:
    """Return the config of the whole network that a pruned one is a part of; that of any other as it is.

    Args:
        network: The config of a network.
    """
    return network[PRUNED[type_name(network.type)]] if is_pruned(network) else network


def with_subnet(network: ConfigDict, setting: str) -> ConfigDict:
    """Put into the config of a pruned network what its files say, so that it needs none of them any more.

    Args:
        network: The config; any other is returned as it is.
        setting: Where it stands, for messages.

    Returns:
        The config, with the subnet and the whole network that it is a part of.

    Raises:
        SettingError: The file of the subnet is missing, or holds no subnet.
    """
    if not is_pruned(network):
        return network
    key = PRUNED[type_name(network.type)]
    subnet, whole = ConfigDict(_in_file(network.get('fix_subnet', {}), f'{setting}.fix_subnet')), network.get(key)
    parts = subnet.get('channel_unit_cfg')
    if isinstance(parts, dict) and parts.get('units'):
        parts.units = _in_file(parts.units, f'{setting}.fix_subnet.channel_unit_cfg.units')
        if all('channels' in unit for unit in parts.units.values()):
            # they say all: nothing has to be traced
            subnet.parse_cfg = dict(type='Config')
    # weights that mmengine.hub is to download are mmrazor's to find
    if isinstance(whole, dict) and ('type' in whole or not whole.get('pretrained')):
        whole = network_config(copy.deepcopy(whole), f'{setting}.{key}')
    return ConfigDict({**network, 'fix_subnet': subnet, key: whole})


def _in_file(subnet: Any, setting: str) -> dict:
    """Return what mmrazor wrote for a subnet, from its file if it is one."""
    if isinstance(subnet, str | Path):
        try:
            # mmengine.load, as mmrazor calls it; compat lets it read plain values only
            return _in_file(load(str(Path(subnet).expanduser())), setting)
        except Exception as error:  # of any parser
            raise SettingError(
                f'{setting}={str(subnet)!r} cannot be read (working folder: {Path.cwd()}). {type(error).__name__}: '
                f'{error}. Give the JSON or YAML file that mmrazor wrote for the subnet.'
            ) from error
    if not isinstance(subnet, dict):
        raise SettingError(f"{setting}={subnet!r} is not a subnet. Give what mmrazor's export_fix_subnet returns.")
    # a copy: mmrazor writes into it while it builds
    return copy.deepcopy(subnet)
