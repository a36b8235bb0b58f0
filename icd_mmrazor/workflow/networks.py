"""Networks of a distillation, as a user names them."""

import contextlib
import copy
import dataclasses
import difflib
import importlib.util
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain import list_models
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.checkpoints.reading import local_file, read_checkpoint
from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.configuration.stored import config_of
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.datasets.class_names import class_names, differing_labels
from icd_mmrazor.engine.checks.statistics import COMMON_MOMENTUM
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.network import quiet
from icd_mmrazor.models.networks.classifier_layer import is_headless, number_of_classes
from icd_mmrazor.models.networks.hubs import is_of_hub, published_by_timm
from icd_mmrazor.models.networks.image_size import image_size_of
from icd_mmrazor.models.networks.preparation import preparation_of_checkpoint
from icd_mmrazor.models.networks.resolve import class_of, network_config, published_weights
from icd_mmrazor.models.networks.student import student_of
from icd_mmrazor.recipes import BASE

WEIGHTS = ('.pth', '.pt', '.safetensors')
# weights that are drawn, and those that a network of a hub loads itself
RANDOM, PUBLISHED = 'random', 'published'


@dataclasses.dataclass
class Network:
    """A network and what is known of it before any training.

    Args:
        name: As the user named it, for the plan.
        cfg: Its full config.
        parameters: The number of its parameters.
        classes: The number of its classes; None without a classifier.
        size: Height and width that it was built for; None if it takes any.
        weights: File or address of its weights; None for a student, ``'random'`` for weights that are to be drawn.
        class_names: The classes that its weights were trained on, if known.
        entry: How a config names it in short; None if only by ``cfg``.
        published_size: Height and width of the images that timm published its weights for, if it takes any size: a
            teacher gets them like this. None for students.
    """

    name: str
    cfg: ConfigDict
    parameters: int
    classes: int | None
    size: tuple[int, int] | None
    weights: str | None = None
    class_names: tuple[str, ...] | None = None
    entry: str | None = None
    published_size: tuple[int, int] | None = None

    @property
    def headless(self) -> bool:
        """Whether it has no classifier."""
        return self.classes is None

    def knows(self, classes: tuple[str, ...]) -> bool:
        """Return whether its logits are of these classes, as far as is known."""
        same_names = self.class_names is None or not differing_labels(self.class_names, classes)
        return self.classes == len(classes) and same_names


def our_networks() -> list[str]:
    """Return the names of this package's networks."""
    return sorted(file.stem for file in (BASE / 'models').glob('*.py'))


def find_teacher(teacher: str | dict, weights: str | None) -> Network:
    """Find a teacher: a network by its name or config, with ``weights``, or a checkpoint that has its config.

    Raises:
        SettingError: It is unknown, or its weights are missing.
        CheckpointError: A file of weights cannot be read.
    """
    entry, names, trained = None, None, None
    if isinstance(teacher, str) and teacher.endswith(WEIGHTS):
        if weights:
            raise SettingError(
                f'--teacher {teacher} is a file of weights. Leave out --teacher-ckpt, or name the network.'
            )
        checkpoint, weights = read_checkpoint(str(local_file(teacher))), teacher
        try:
            cfg = student_of(config_of(checkpoint, teacher))
        except SettingError as error:
            raise SettingError(
                f'--teacher {teacher}: {error} Or give --teacher NETWORK --teacher-ckpt {teacher}.'
            ) from None
        names, trained = class_names(checkpoint.get('meta')), preparation_of_checkpoint(checkpoint)
    else:
        cfg = _config_of(teacher, '--teacher')
        entry = teacher if isinstance(teacher, str) and teacher not in our_networks() else None
        weights = weights or published_weights(teacher) or (PUBLISHED if is_of_hub(entry) else None)
        if not weights:
            raise SettingError(
                f'--teacher {_name(teacher)}: its weights are missing. Give --teacher-ckpt FILE, or a checkpoint that '
                'was written by a training as --teacher. For a trial, --teacher-ckpt random draws them.'
            )
        if _is_file(weights):
            checkpoint = read_checkpoint(str(local_file(weights)))
            names, trained = class_names(checkpoint.get('meta')), preparation_of_checkpoint(checkpoint)
    if _is_file(weights):
        weights = str(Path(weights).expanduser().absolute())
    found = _looked_at(_name(teacher), cfg, 'teacher', weights=weights, class_names=names, entry=entry)
    # weights that were trained here have seen images of another size
    return dataclasses.replace(found, published_size=None) if trained else found


def find_student(student: str | dict, classes: int) -> Network:
    """Find a student and give it a classifier for a number of classes.

    Raises:
        SettingError: It is unknown, or it is not known how to set the number of its classes.
    """
    if isinstance(student, str) and student.endswith(WEIGHTS):
        raise SettingError(f'--student {student} is a file of weights. Name a network: its config, or a name of a zoo.')
    cfg = with_common_statistics(with_classes(_config_of(student, '--student'), classes))
    found = _looked_at(_name(student), cfg, 'student')
    if found.classes != classes:
        raise SettingError(
            f'--student {found.name}: its classifier could not be set to {classes} classes, it has {found.classes}. '
            'Give a config in which it has them.'
        )
    return found


def with_classes(network: ConfigDict, classes: int) -> ConfigDict:
    """Return the config of a classifier for another number of classes.

    Label smoothing, and the mixing of images that the config of a network asks for, are left out: both are settings of
    the recipe.
    """
    network = copy.deepcopy(network)
    head, backbone = network.get('head'), network.get('backbone') or {}
    if type_name(network.type) == 'HuggingFaceClassifier':
        network.num_labels = classes
    elif head is None and 'backbone' not in network:
        network.num_classes = classes
    elif head and 'num_classes' in head:
        head.num_classes = classes
    elif 'num_classes' in backbone:
        backbone.num_classes = classes
    for part in (head, network):
        if part and (part.get('loss') or {}).get('type'):
            part.loss = ConfigDict(type='CrossEntropyLoss', loss_weight=1.0)
        if part and 'topk' in part:
            part.topk = (1,)
    for name in ('train_cfg', 'data_preprocessor'):  # both are the recipe's
        network.pop(name, None)
    return network


def with_common_statistics(network: ConfigDict) -> ConfigDict:
    """Return the config of a network whose BatchNorm has torch's momentum, unless the config says another.

    mmpretrain's MobileNetV3 averages its statistics over 100 iterations, for trainings of 100,000. After a few hundred
    it would be validated with those of another network. The recipes average the student with its statistics anyway.
    """
    backbone = network.get('backbone')
    if backbone and 'norm_cfg' not in backbone:
        cls = class_of(backbone)
        arguments = inspect.signature(cls).parameters if cls else {}
        norm = getattr(arguments.get('norm_cfg'), 'default', None)
        if isinstance(norm, dict) and norm.get('momentum', COMMON_MOMENTUM) < COMMON_MOMENTUM:
            network = copy.deepcopy(network)
            network.backbone.norm_cfg = ConfigDict({**norm, 'momentum': COMMON_MOMENTUM})
    return network


def build(cfg: Any, role: str) -> nn.Module:
    """Build a network with random weights, without a trace in the global generators and the log."""
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.random.fork_rng(devices=[]), silent():
        try:
            with explained_settings():
                return MODELS.build(_without_weights(copy.deepcopy(cfg)))
        except ImportError as error:
            raise SettingError(f'--{role}: a package is missing: {error}') from error


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Leave out of all logs what is not a warning."""
    disabled = logging.root.manager.disable
    with quiet():  # mmengine's loggers remember what is disabled until a level is set
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(disabled)


def _is_file(weights: str) -> bool:
    return weights not in (RANDOM, PUBLISHED) and '://' not in weights


def _without_weights(cfg: Any) -> Any:
    if isinstance(cfg, dict):
        if isinstance(cfg.get('pretrained'), bool):
            cfg['pretrained'] = False
        for value in cfg.values():
            _without_weights(value)
    return cfg


def _looked_at(name: str, cfg: ConfigDict, role: str, **known: Any) -> Network:
    network = build(cfg, role)
    parameters = sum(p.numel() for p in network.parameters())
    classes = None if is_headless(network) else number_of_classes(network)
    size = image_size_of(network)
    if role == 'teacher' and size is None and (settings := published_by_timm(network)):
        known['published_size'] = tuple(settings['input_size'][-2:])
    return Network(name, cfg, parameters, classes, size, **known)


def _config_of(network: str | dict, setting: str) -> ConfigDict:
    if isinstance(network, str) and network.lower() in our_networks():
        file = BASE / 'models' / f'{network.lower()}.py'
        network = Config.fromfile(file)[network.lower().replace('-', '_')].to_dict()
    elif is_of_hub(network) and setting == '--student':
        network = dict(cfg_path=network, num_classes=1)  # without, some have no classifier
    elif isinstance(network, str) and not is_of_hub(network) and '::' not in network and not network.endswith('.py'):
        _check_name(network, setting)
    return network_config(network, setting)


def _check_name(name: str, setting: str) -> None:
    known = {*list_models(), *our_networks()}
    if name.lower() in known:
        return
    if Path(name).is_file():
        raise SettingError(
            f'{setting} {name} is neither a config (.py) nor weights ({", ".join(WEIGHTS)}). Give one of these.'
        )
    if importlib.util.find_spec('timm') and importlib.import_module('timm').is_model(name):
        hint = f' Did you mean timm/{name}?'
    elif '/' in name:
        hint = f" One of Hugging Face's is called hf/{name}."
    else:
        close = difflib.get_close_matches(name.lower(), sorted(known), n=4, cutoff=0.5)
        hint = f' Did you mean {" or ".join(close)}?' if close else ' mmpretrain.list_models() lists those of its zoo.'
    raise SettingError(
        f'{setting} {name} is not a known network.{hint} Networks of timm are called timm/NAME, those of Hugging '
        'Face hf/NAME; a config file ends in .py.'
    )


def _name(network: str | dict) -> str:
    if isinstance(network, str):
        return network
    return str(network.get('cfg_path') or network.get('model_name') or type_name(network.get('type')))
