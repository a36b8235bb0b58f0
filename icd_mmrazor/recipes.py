"""Composition of a method with a pair of networks into one config.

A pair is a file ``configs/_base_/pairs/PAIR.py`` that holds everything but the distiller. A method is a file
``configs/_base_/methods/METHOD.py`` that holds the config of its distiller in a variable of the same name; a variable
``METHOD_beside``, if there is one, is used instead when the method is combined with others. ``METHOD_pairs`` has the
settings for pairs of networks, ``{'res56_res20': {'losses.dkd.loss.beta': 2.0}}``, which are its authors' where they
published any, and for a whole dataset, ``'in1k'``, before those of a pair. ``METHOD_dataset`` has the wrapper that its
training set needs: ``dict(type='TwoViewDataset', ...)``, and ``METHOD_settings`` what else of a run it changes:
``dict(model=dict(type='AugmentedDistill'))``. Keys of ``METHOD_pairs`` that start with ``model.`` are of the run, too.
``METHOD_assistants``, ``{'res56_res20': ['res44', 'res32']}``, names the networks that teach besides the teacher. A
pair may replace settings of a method in a variable ``override_METHOD``.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.configuration.image_size import tell_distillers
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError, did_you_mean
from icd_mmrazor.export.network import quiet
from icd_mmrazor.models.distillers.class_labels import LABELS
from icd_mmrazor.models.distillers.feature_terms import NETWORKS, class_of, feature_names
from icd_mmrazor.models.distillers.named_features import OF_CLASSIFIER
from icd_mmrazor.models.distillers.term_losses import build_for
from icd_mmrazor.models.networks.changed_student import changing_distiller, record_changed_student
from icd_mmrazor.models.networks.resolve import name_networks_in_full
from icd_mmrazor.models.networks.untrained import untrained

BASE = Path(__file__).resolve().parent / '.mim' / 'configs' / '_base_'
# the student trained without a teacher: a row of every table
STUDENT_ALONE = 'student'
# how settings of a method for a pair start that are not the distiller's
OF_RUN = 'model.'
# the authors of ICD have called it DCD since November 2024
ALIASES = {'dcd': 'icd'}


def method_names() -> list[str]:
    """Return the names of all methods, sorted; ``student`` is the student alone."""
    return sorted([STUDENT_ALONE, *(file.stem for file in (BASE / 'methods').glob('*.py'))])


def pair_names() -> list[str]:
    """Return the names of all pairs, ``TEACHER_STUDENT_DATASET``, sorted."""
    return sorted(file.stem for file in (BASE / 'pairs').glob('*.py'))


def split_methods(methods: str) -> list[str]:
    """Split a combination into its methods, aliases resolved: ``['icd', 'kd']`` for ``dcd+kd``."""
    return [ALIASES.get(name, name) for name in methods.split('+')]


def canonical_name(methods: str) -> str:
    """Resolve the aliases in a combination: ``icd+kd`` for ``dcd+kd``."""
    return '+'.join(split_methods(methods))


def describe_method(method: str) -> str:
    """Describe a method by the comment on the first line of its config."""
    if method == STUDENT_ALONE:
        return 'the student alone, without a teacher'
    first = (BASE / 'methods' / f'{method}.py').read_text().splitlines()[0]
    return first.removeprefix('#').strip()


def describe_pair(pair: str) -> str:
    """Describe which teacher checkpoint a pair needs, and whether it exists."""
    teacher = _read(BASE / 'pairs' / f'{pair}.py').model.teacher_ckpt
    exists = teacher.startswith('https://') or Path(teacher).is_file()
    return f'teacher {teacher}' + ('' if exists else ' (missing)')


def check_name(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that is unknown, and suggest similar ones; ``kind`` says what is named."""
    if name not in known:
        raise SettingError(f'There is no {kind} {name!r}.{did_you_mean(name.lower(), known)}')


def compose(pair: str, methods: Sequence[str]) -> Config:
    """Compose the config of a run.

    Several methods become a ``MixedDistiller``. The student is as a method changes it (SimKD). A method that trains in
    two stages gets its initial epochs in addition to those of the pair's schedule.

    Args:
        pair: One of :func:`pair_names`.
        methods: One or more of :func:`method_names`, or their aliases.

    Raises:
        SettingError: A name is unknown, or a method does not fit the pair; the message says why.
    """
    check_name('pair', pair, pair_names())
    methods = [ALIASES.get(method, method) for method in methods]
    for method in methods:
        check_name('method', method, method_names())
    if not methods or len(set(methods)) < len(methods):
        raise SettingError(f'methods={"+".join(methods)!r} must be one or more methods, each of them once.')
    cfg = _read(BASE / 'pairs' / f'{pair}.py')
    name_networks_in_full(cfg.model)
    overrides = {key: cfg.pop(key) for key in list(cfg) if key.startswith('override_')}
    if STUDENT_ALONE in methods:
        if len(methods) > 1:
            raise SettingError(f'Method {STUDENT_ALONE} is the student alone and cannot be combined with others.')
        cfg.model = cfg.model.architecture
        return cfg
    wrapper = dataset_of(methods)
    cfg.model.distiller = compose_distiller(methods, overrides, pair)
    cfg.merge_from_dict(settings_of(methods, pair))
    if wrapper is not None:
        cfg.train_dataloader.dataset = dict(wrapper, dataset=cfg.train_dataloader.dataset)
    tell_distillers(cfg)
    try:
        with explained_settings():
            record_changed_student(cfg.model)
        initial_epochs = _initial_epochs(pair, cfg.model)
    except SettingError as error:
        raise SettingError(f'{"+".join(methods)} does not fit {pair}. {error}') from None
    if initial_epochs:
        _delay_schedule(cfg, initial_epochs)
    return cfg


def compose_distiller(
    methods: Sequence[str], overrides: Mapping[str, dict] | None = None, pair: str | None = None
) -> dict:
    """Compose the config of the distiller of one or more methods, without aliases; several are mixed.

    Args:
        methods: Names of methods, not of the student alone.
        overrides: Settings to replace in a method, ``override_METHOD=dict(...)``.
        pair: The pair whose settings count, if a method has settings for some.
    """
    alone, overrides = len(methods) == 1, overrides or {}
    distillers = {name: {**_distiller(name, alone, pair), **overrides.get(f'override_{name}', {})} for name in methods}
    return distillers[methods[0]] if alone else dict(type='MixedDistiller', distillers=distillers)


def dataset_of(methods: Sequence[str]) -> dict | None:
    """Return the wrapper that the training set needs for one or more methods, without its ``dataset``; None if none.

    Raises:
        SettingError: Some of the methods take two views of each image in a batch, and others one.
    """
    wrappers = {name: _config(name).get(f'{name}_dataset') for name in methods}
    with_wrapper = [name for name, wrapper in wrappers.items() if wrapper is not None]
    wrapper = wrappers[with_wrapper[0]] if with_wrapper else None
    if other := [name for name in methods if wrappers[name] != wrapper]:
        raise SettingError(
            f'{"+".join(methods)}: {with_wrapper[0]} takes two views of each image in a batch, and {other[0]} would '
            'take them for different images. Train them separately.'
        )
    return wrapper


def settings_of(methods: Sequence[str], pair: str | None = None) -> dict[str, Any]:
    """Return the settings of a run that one or more methods change besides its distiller, nested as in a config.

    Args:
        methods: Names of methods, not of the student alone.
        pair: The pair whose settings count, if a method has settings for some.

    Raises:
        SettingError: Two of the methods need different values of one setting.
    """
    settings, owners = Config(), {}
    for name in methods:
        own = Config(_config(name).get(f'{name}_settings', {}))
        own.merge_from_dict({key: value for key, value in _of_pair(name, pair).items() if key.startswith(OF_RUN)})
        own.merge_from_dict(_experts(name, pair))
        for key, value in _flattened(own).items():
            other, found = owners.setdefault(key, (name, value))
            if found != value:
                raise SettingError(
                    f'{"+".join(methods)}: {other} needs {key}={found!r}, and {name} needs {key}={value!r}. Train '
                    'them separately.'
                )
        settings.merge_from_dict(own.to_dict())
    return settings.to_dict()


def assistants_of(method: str, pair: str | None) -> list[dict[str, Any]]:
    """Return the teaching assistants that a method needs for a pair, in falling capacity, as in ``model.teachers``.

    Each learns from the one before it, the first one from the pair's teacher.

    Raises:
        SettingError: The method needs some, and none are known for the pair.
    """
    known = _config(method).get(f'{method}_assistants')
    if known is None:
        return []
    networks, _, data = (pair or '').rpartition('_')
    if networks not in known:
        raise SettingError(
            f'{method} does not fit {pair or "these networks"}. It needs teaching assistants, which are known for '
            f'{", ".join(known)}. Train some, and name them in model.teachers of your own config.'
        )
    classes = _read(BASE / 'pairs' / f'{pair}.py').model.architecture.head.num_classes
    chain, assistants = [networks.partition('_')[0]], []
    for name in known[networks]:
        chain.append(name)
        network = _read(BASE / 'models' / f'{name}.py')[name.replace('-', '_')]
        network.head.num_classes = classes
        file = f'work_dirs/assistants/{"-".join(chain)}_{data}.pth'
        assistants.append(dict(teacher=network, teacher_ckpt=file))
    return assistants


def needs_of(method: str, alone: bool = True) -> set[str]:
    """Return what a method needs of networks and images.

    Args:
        method: One of :func:`method_names`, or an alias.
        alone: Whether it is not combined with others.

    Returns:
        Of the two networks ``'logits'``, ``'pooled'``, ``'maps'``, ``'tokens'``, ``'preactivations'`` and ``'blocks'``;
        of the teacher its ``'classifier'``, if the weights are read; of the images ``'labels'``, apart from those that
        the student's own loss reads (with ``'scores'``, if those of mixed images do as well), ``'positions'`` in the
        training set, two ``'views'`` of each in a batch, and that they are ``'unmixed'``.
    """
    method = ALIASES.get(method, method)
    with MODELS.switch_scope_and_registry('mmrazor'):
        distiller = MODELS.build(_distiller(method, alone))
        kind = _config(method).get(f'{method}_settings', {}).get('model', {}).get('type', 'FrozenTeacherDistill')
        needs = {*getattr(MODELS.get(kind), 'needs', ())}
    needs |= {'classifier'} if getattr(distiller, 'changes_student', False) else set()
    if any(getattr(loss, 'reads_labels', False) for loss in distiller.distill_losses.values()):
        needs.add('labels')  # a loss that its algorithm computes
    for entry in distiller.entries.values():
        loss = entry['loss']
        cls = type(loss) if isinstance(loss, nn.Module) else class_of(loss)
        names = {name for network in NETWORKS for name in feature_names(entry, network)}
        needs |= {_kind_of_feature(name) for name in names}
        if 'teacher_classifier' in inspect.signature(cls).parameters:
            needs.add('classifier')
        if (getattr(cls, 'reads_labels', False) or LABELS in inspect.signature(cls.forward).parameters) and getattr(
            _built(loss, cls), 'reads_labels', True
        ):
            needs |= {'labels', 'scores'} if getattr(cls, 'reads_scores', False) else {'labels'}
        if getattr(cls, 'reads_positions', 'data_samples' in inspect.signature(cls.forward).parameters):
            needs.add('positions')
        if getattr(cls, 'reads_views', False):
            needs.add('views')
    return needs


def _built(loss: Any, cls: Callable) -> Any:
    """Build a loss, whose settings may say what it reads; return its class if that needs the shapes of features."""
    if isinstance(loss, nn.Module):
        return loss
    needed = {p.name for p in inspect.signature(cls).parameters.values() if p.default is p.empty}
    return build_for(loss, {}) if needed <= {*loss} else cls


def _kind_of_feature(name: str) -> str:
    if name in OF_CLASSIFIER:
        return 'pooled' if name in ('pooled', 'embedding') else 'logits'
    return next((kind for kind in ('preactivations', 'tokens', 'blocks') if kind[:-1] in name), 'maps')


def _read(file: Path) -> Config:
    """Read a file of the package once: mmengine writes temporary files to read one, which takes most of ``compose``."""
    return copy.deepcopy(_parsed(file))


_parsed = functools.cache(Config.fromfile)


def _config(method: str) -> Config:
    return _read(BASE / 'methods' / f'{method}.py')


def _distiller(method: str, alone: bool, pair: str | None = None) -> dict:
    cfg = _config(method)
    if method not in cfg:
        raise SettingError(f'{cfg.filename} must define the distiller as {method}; it defines {", ".join(cfg)}.')
    combined = cfg.get(f'{method}_beside')
    distiller = Config(dict(distiller=cfg[method] if alone or combined is None else combined))
    settings = {name: value for name, value in _of_pair(method, pair).items() if not name.startswith(OF_RUN)}
    distiller.merge_from_dict({f'distiller.{name}': value for name, value in settings.items()})
    return distiller.distiller


def _of_pair(method: str, pair: str | None) -> dict[str, Any]:
    """Return the settings that a method has for a pair, those for its networks before those for its dataset."""
    networks, _, dataset = (pair or '').rpartition('_')
    settings = _config(method).get(f'{method}_pairs', {})
    return {**settings.get(dataset, {}), **settings.get(networks, {})}


def _experts(method: str, pair: str | None) -> dict[str, Any]:
    """Return the settings of a method's teachers for a pair: its assistants, in rising capacity, then its teacher."""
    assistants = assistants_of(method, pair)
    if not assistants:
        return {}
    model = _read(BASE / 'pairs' / f'{pair}.py').model
    teacher = dict(teacher=model.teacher, teacher_ckpt=model.teacher_ckpt)
    return {'model.teacher': None, 'model.teacher_ckpt': None, 'model.teachers': [*assistants[::-1], teacher]}


def _flattened(cfg: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return the values of a config by their full names: ``{'model.type': 'AugmentedDistill'}``."""
    flat: dict[str, Any] = {}
    for key, value in cfg.items():
        flat |= _flattened(value, f'{prefix}{key}.') if isinstance(value, Mapping) else {f'{prefix}{key}': value}
    return flat


def _delay_schedule(cfg: Config, epochs: int) -> None:
    schedules = cfg.get('param_scheduler') or []
    for schedule in schedules if isinstance(schedules, list) else [schedules]:
        if not schedule.get('by_epoch', True):
            raise SettingError(
                f'param_scheduler {type_name(schedule.type)} counts iterations, but the method trains {epochs} initial '
                'epochs. Use a schedule with by_epoch=True.'
            )
        schedule.begin = schedule.get('begin', 0) + epochs
        if 'end' in schedule:
            schedule.end += epochs
    cfg.train_cfg.max_epochs += epochs
    # some parameters are idle in each stage
    cfg.find_unused_parameters = True


def _initial_epochs(pair: str, model: Config) -> int:
    """Fit a distiller to the untrained networks of a pair, which checks it; return its number of initial epochs."""
    with explained_settings(), torch.random.fork_rng(devices=[]), quiet(), MODELS.switch_scope_and_registry('mmrazor'):
        distiller, networks = MODELS.build(model.distiller), _untrained(pair)
        changed = changing_distiller(model.distiller) is not None
        distiller.prepare_from_student(untrained(model.architecture) if changed else networks['architecture'])
        distiller.prepare_from_teacher(networks['teacher'])
    return getattr(distiller, 'initial_epochs', 0)


@functools.cache
def _untrained(pair: str) -> dict[str, nn.Module]:
    model = _read(BASE / 'pairs' / f'{pair}.py').model
    name_networks_in_full(model)
    return {name: MODELS.build(model[name]) for name in ('architecture', 'teacher')}
