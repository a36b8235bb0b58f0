"""``--cfg-options`` for many cells of the benchmark: which of them a cell gets, and whether they fit its config."""

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import LOOPS, Registry
from mmrazor.registry import MODELS

from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.method_names import own_names

STUDENT_ALONE = 'student'
# the network in the config of a distillation; it is the whole model of a student alone
STUDENT = 'model.architecture.'
# settings that a student alone does not have
TEACHING = (
    'model.teacher',
    'model.random_teacher',
    'model.distiller',
    'model.student_trainable',
    'model.calculate_student_loss',
)
# what the runner itself gives to each cell
OWN_OPTIONS = ('randomness.seed', 'work_dir', 'resume', 'launcher')
# sections whose settings are the arguments of a class; the class where no type is given
BUILT: dict[str, tuple[Registry, str | None]] = {
    'model': (MODELS, None),
    'train_cfg': (LOOPS, 'EpochBasedTrainLoop'),
    'val_cfg': (LOOPS, 'ValLoop'),
    'test_cfg': (LOOPS, 'TestLoop'),
}
# settings that are read before the class gets the others; mmengine's _delete_ replaces a section
NO_ARGUMENTS = {'type', '_scope_', 'by_epoch', '_delete_'}


def options_of(methods: str, options: Sequence[str]) -> list[str]:
    """Return the options of a cell.

    Args:
        methods: The methods of the cell, by their own names: ``icd+kd``.
        options: ``KEY=VALUE`` for every cell, ``METHODS:KEY=VALUE`` for those of exactly these methods, which counts
            more. A student alone has its settings ``model.architecture.X`` as ``model.X``, and those of the teaching
            not at all.

    Returns:
        As ``--cfg-options`` of tools/train.py takes them.
    """
    chosen: dict[str, str] = {}
    for own in (False, True):
        for option in options:
            name, _, value = option.partition('=')
            prefix, colon, key = name.rpartition(':')
            if bool(colon) != own or (own and own_names(prefix) != methods):
                continue
            if methods == STUDENT_ALONE:
                if key.startswith(STUDENT):
                    key = f'model.{key.removeprefix(STUDENT)}'
                elif key.startswith(TEACHING) and not own:
                    continue
            chosen[key] = f'{key}={value}'
    return list(chosen.values())


def check_options(options: Sequence[str], methods: Sequence[str]) -> None:
    """Refuse options that no cell can have.

    Args:
        options: As :func:`options_of` takes them.
        methods: The methods of all cells, by their own names.

    Raises:
        SettingError: An option has no value, is the runner's own, or is for methods that are not given.
    """
    for option in options:
        name, equals, _ = option.partition('=')
        prefix, colon, key = name.rpartition(':')
        if not equals or not key:
            raise SettingError(f'--cfg-options {option}: give KEY=VALUE, or METHODS:KEY=VALUE.')
        if colon and own_names(prefix) not in methods:
            raise SettingError(
                f'--cfg-options {option} is for the cells of {prefix!r} alone, and --methods has: {", ".join(methods)}.'
            )
        if key in OWN_OPTIONS:
            remedy = 'give --seeds' if key == 'randomness.seed' else 'leave it out'
            raise SettingError(f'--cfg-options {option}: every cell gets its own {key}; {remedy}.')


def merge_options(cfg: Config, methods: str, options: Sequence[str]) -> None:
    """Merge the options of a cell into its config, as the training will.

    Args:
        cfg: The composed config; it is changed.
        methods: The methods of the cell, for messages.
        options: What :func:`options_of` gives.

    Raises:
        SettingError: An option does not fit the config, a class does not take it, or no epochs are left for the main
            stage.
    """
    if not options:
        return
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='*', action=DictAction)
    values = parser.parse_args(['--cfg-options', *options]).cfg_options
    try:
        cfg.merge_from_dict(values)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise SettingError(f'--cfg-options do not fit the config of {methods}: {error}') from error
    for option in options:
        _check_arguments(cfg, methods, option)
    _check_distiller(cfg, methods, options)
    _check_epochs(cfg, methods)


def _check_arguments(cfg: Config, methods: str, option: str) -> None:
    """Refuse a setting that the class of its section does not take: the training would end with a TypeError."""
    words = option.partition('=')[0].split('.')
    if words[0] not in BUILT:
        return
    registry, default = BUILT[words[0]]
    section: Any = cfg[words[0]]
    scope = cfg.get('default_scope')
    for depth, word in enumerate(words[1:], start=1):
        if not isinstance(section, dict):
            return
        scope = section.get('_scope_', scope)
        built = _find(registry, section.get('type', default), scope)
        taken = built and _arguments(built)
        if taken and word not in taken | NO_ARGUMENTS:
            raise SettingError(
                f'--cfg-options {option} does not fit {methods}: {".".join(words[:depth])} is a {built.__name__}, '
                f'which takes no {word!r}, but {", ".join(sorted(taken))}. {_for_others(option)}'
            )
        section, default = section.get(word), None


def _find(registry: Registry, name: Any, scope: str | None) -> Callable | None:
    """Return the class of a type; None where it is not found so, which the training may still do."""
    if not isinstance(name, str):
        return name if callable(name) else None
    try:
        return registry.get(name if '.' in name or not scope else f'{scope}.{name}')
    except (KeyError, RuntimeError, ImportError):
        return None


def _arguments(built: Callable) -> set[str]:
    """Return the names of the arguments, those of ``**kwargs`` too; empty if it takes any."""
    names: set[str] = set()
    for cls in inspect.getmro(built) if inspect.isclass(built) else [built]:
        if inspect.isclass(cls) and '__init__' not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters.values()
        names |= {one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)} - {'self'}
        if all(one.kind is not one.VAR_KEYWORD for one in parameters):
            return names
    return set()


def _check_distiller(cfg: Config, methods: str, options: Sequence[str]) -> None:
    """Build the distiller, if options change it: it refuses itself what does not go together."""
    changes = [option for option in options if option.startswith('model.distiller.')]
    if not changes:
        return
    try:
        with torch.random.fork_rng(devices=[]), MODELS.switch_scope_and_registry('mmrazor'):
            MODELS.build(cfg.model.distiller)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        raise SettingError(
            f'--cfg-options {" ".join(changes)} does not fit {methods}: {error} {_for_others(changes[0])}'
        ) from error


def _for_others(option: str) -> str:
    return f'If the option is for other cells, put their methods before it: METHODS:{option}.'


def _check_epochs(cfg: Config, methods: str) -> None:
    distiller = cfg.model.get('distiller') or {}
    initial = {'model.distiller.initial_epochs': distiller.get('initial_epochs')}
    for name, child in (distiller.get('distillers') or {}).items():
        initial[f'model.distiller.distillers.{name}.initial_epochs'] = child.get('initial_epochs')
    for name, epochs in initial.items():
        if epochs and cfg.train_cfg.max_epochs <= epochs:
            raise SettingError(
                f'--cfg-options: {methods} has train_cfg.max_epochs={cfg.train_cfg.max_epochs} and '
                f'{name}={epochs}, which leaves nothing for the main stage. Give more of the one or fewer of the '
                f'other: {methods}:{name}=NUMBER.'
            )
