"""The benchmark: any method, or several, on any pair of networks, composed from one config of each.

A pair lies in ``configs/_base_/pairs/PAIR.py``: everything but the distiller. A method lies in
``configs/_base_/methods/METHOD.py`` and is the config of a distiller in a variable of the method's name; a variable
``METHOD_beside``, where there is one, is used in its place beside other methods. Where a pair wants a method otherwise,
it has a variable ``override_METHOD``, and where its images are not 3 x 32 x 32, ``image_shape``.
"""

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.network import quiet
from icd_mmrazor.models.networks.resolve import name_networks_in_full
from icd_mmrazor.utils.method_names import own_names

BASE = Path(__file__).resolve().parent / '.mim' / 'configs' / '_base_'
# the student alone: no method, and a row of every table
STUDENT_ALONE = 'student'


def method_names() -> list[str]:
    """Return the names of the methods, in alphabetical order; ``student`` is the student alone."""
    return sorted([STUDENT_ALONE, *(file.stem for file in (BASE / 'methods').glob('*.py'))])


def pair_names() -> list[str]:
    """Return the names of the pairs, ``TEACHER_STUDENT_DATASET``, in alphabetical order."""
    return sorted(file.stem for file in (BASE / 'pairs').glob('*.py'))


def describe_method(method: str) -> str:
    """Return what a method is: the comment that its config begins with.

    Args:
        method: One of :func:`method_names`.
    """
    if method == STUDENT_ALONE:
        return 'the student alone, without a teacher'
    first = (BASE / 'methods' / f'{method}.py').read_text().splitlines()[0]
    return first.removeprefix('#').strip()


def describe_pair(pair: str) -> str:
    """Return what a pair needs: the file of its teacher, and whether it is there.

    Args:
        pair: One of :func:`pair_names`.
    """
    teacher = Config.fromfile(BASE / 'pairs' / f'{pair}.py').model.teacher_ckpt
    there = teacher.startswith('https://') or Path(teacher).is_file()
    return f'teacher {teacher}' + ('' if there else ' (not there)')


def compose(pair: str, methods: Sequence[str]) -> Config:
    """Compose the config of a run.

    Several methods become a ``MixedDistiller``. Where a method trains in two stages, its initial epochs come before
    those of the pair's schedule.

    Args:
        pair: One of :func:`pair_names`.
        methods: One or more of :func:`method_names`; ``dcd`` is ``icd``.

    Returns:
        The config, complete: what ``tools/train.py`` trains.

    Raises:
        SettingError: A name is unknown, or a method does not fit the pair; the message has the reason.
    """
    check_name('pair', pair, pair_names())
    if not methods:
        raise SettingError(f'no method is given. There are: {", ".join(method_names())}.')
    methods = [own_names(method) for method in methods]
    for method in methods:
        check_name('method', method, method_names())
    twice = sorted({method for method in methods if list(methods).count(method) > 1})
    if twice:
        raise SettingError(f'method {", ".join(twice)} is given more than once.')
    cfg = Config.fromfile(BASE / 'pairs' / f'{pair}.py')
    name_networks_in_full(cfg.model)
    overrides = {key: cfg.pop(key) for key in list(cfg) if key.startswith('override_')}
    image_shape = cfg.pop('image_shape', None)
    if STUDENT_ALONE in methods:
        if len(methods) > 1:
            raise SettingError(f'method {STUDENT_ALONE} is the student alone and cannot be mixed with others.')
        cfg.model = cfg.model.architecture
        return cfg
    distillers = {
        method: {**_distiller(method, alone=len(methods) == 1), **overrides.get(f'override_{method}', {})}
        for method in methods
    }
    for distiller in distillers.values():
        if image_shape and type_name(distiller['type']) == 'FeatureDistiller':
            distiller['image_shape'] = image_shape
    cfg.model.distiller = (
        distillers[methods[0]] if len(methods) == 1 else dict(type='MixedDistiller', distillers=distillers)
    )
    try:
        initial_epochs = _fit(pair, cfg.model.distiller)
    except (SettingError, KeyError) as error:  # a KeyError of the registry: a type is not registered
        raise SettingError(f'{"+".join(methods)} does not fit {pair}. {error}') from None
    if initial_epochs:
        _begin_later(cfg, initial_epochs)
    return cfg


def check_name(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that is not known.

    Args:
        kind: What it names, for the message.
        name: The name.
        known: All names.

    Raises:
        SettingError: It is not among them; the message has those that are near.
    """
    if name in known:
        return
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f'Did you mean {" or ".join(near)}?' if near else f'There are: {", ".join(known)}.'
    raise SettingError(f'there is no {kind} {name!r}. {hint}')


def _distiller(method: str, alone: bool) -> dict:
    cfg = Config.fromfile(BASE / 'methods' / f'{method}.py')
    if method not in cfg:
        raise SettingError(f'{cfg.filename} must hold the distiller in a variable {method}; it has {", ".join(cfg)}.')
    beside = cfg.get(f'{method}_beside')
    return cfg[method] if alone or beside is None else beside


def _begin_later(cfg: Config, epochs: int) -> None:
    """Let the pair's schedule begin after some epochs."""
    schedules = cfg.get('param_scheduler') or []
    for schedule in schedules if isinstance(schedules, list) else [schedules]:
        if not schedule.get('by_epoch', True):
            raise SettingError(
                f'param_scheduler {type_name(schedule.type)} counts iterations; a method with {epochs} '
                'epochs of its own first needs one that counts epochs: by_epoch=True.'
            )
        schedule.begin = schedule.get('begin', 0) + epochs
        if 'end' in schedule:
            schedule.end += epochs
    cfg.train_cfg.max_epochs += epochs
    # in each stage something is idle
    cfg.find_unused_parameters = True


def _fit(pair: str, distiller_cfg: dict) -> int:
    """Prepare a distiller on the untrained networks of a pair; return its initial epochs."""
    with explained_settings(), torch.random.fork_rng(devices=[]), quiet(), MODELS.switch_scope_and_registry('mmrazor'):
        distiller, networks = MODELS.build(distiller_cfg), _untrained(pair)
        distiller.prepare_from_student(networks['architecture'])
        distiller.prepare_from_teacher(networks['teacher'])
    return getattr(distiller, 'initial_epochs', 0)


@functools.cache
def _untrained(pair: str) -> dict[str, nn.Module]:
    model = Config.fromfile(BASE / 'pairs' / f'{pair}.py').model
    name_networks_in_full(model)
    return {name: MODELS.build(model[name]) for name in ('architecture', 'teacher')}
