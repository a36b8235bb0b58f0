"""Config files of the user."""

import difflib
import inspect
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from icd_mmrazor.configuration.type_names import by_names
from icd_mmrazor.errors import SettingError, UserError, did_you_mean

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# what mmengine reads from a config in addition to the arguments of its Runner
MORE_SECTIONS = ('custom_imports', 'find_unused_parameters', 'model_wrapper_cfg', 'sync_bn', 'compile')
DICTIONARIES = (*DATALOADERS, 'auto_scale_lr', 'env_cfg', 'randomness', 'default_hooks', 'optim_wrapper')
# sections that a config has together or not at all
STAGES = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}


def read_config_file(path: str | os.PathLike, what: str = 'config') -> Config:
    """Run a config file of the user's own and return its config, with classes replaced by their names.

    A config of somebody else is for :func:`icd_mmrazor.configuration.stored.read_config_text`.

    Args:
        path: The file.
        what: What it is, for messages: ``'--config'``.

    Raises:
        SettingError: There is no such file, or it cannot be run; names the line.
    """
    file = Path(path)
    try:
        file = file.expanduser()
        found = None if file.is_file() else 'is a folder' if file.is_dir() else 'there is no such file'
    except (OSError, RuntimeError, ValueError) as error:  # the name is too long, has an unknown user, or a NUL
        found = str(error)
    if found:
        raise SettingError(f'{what} {file}: {found} (working folder: {Path.cwd()}).')
    try:
        return by_names(Config.fromfile(file))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a config is a program
        raise SettingError(f'{what} {file} cannot be read. {_location(error, file)}') from error


def _location(error: BaseException, path: Path) -> str:
    """Locate an error in a config or in those that it inherits from: file, line and message."""
    if isinstance(error, RecursionError):
        return 'It inherits from itself, directly or indirectly: check its _base_.'
    file, line = str(path), getattr(error, 'lineno', None)
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get('__name__') == 'mmengine.config.config' and 'filename' in frame.f_locals:
            file = str(frame.f_locals['filename'])
        elif frame.f_code.co_filename == file:
            line = number
    text = ' '.join((getattr(error, 'msg', None) or str(error)).split())[:400]
    return f'{file}{f", line {line}" if line else ""}: {type(error).__name__}: {text}'


def check_sections(cfg: Config, name: str) -> None:
    """Refuse a config that does not describe a run; ``name`` is its file, for messages.

    Raises:
        SettingError: A section is missing, misspelt, or not a dictionary.
    """
    known = [*inspect.signature(Runner).parameters, *MORE_SECTIONS]
    for key, value in cfg.items():
        # other names may be the config's own variables
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.85) if isinstance(value, dict | list) else []
        if close and key not in known:
            raise SettingError(f'config {name} has {key}, which nothing reads. Did you mean {close[0]}?')
    if not isinstance(cfg.get('model'), Mapping):
        raise SettingError(
            f'config {name} has no model=dict(type=...); it has {", ".join(cfg) or "nothing"}. Give the config of a '
            'training, or inherit from one: _base_ = ["icd_mmrazor::icd/..."].'
        )
    for section in DICTIONARIES:
        if not isinstance(cfg.get(section), Mapping | None):
            raise SettingError(f'config {name}: {section}={cfg[section]!r} must be a dictionary: {section}=dict(...).')
    if not isinstance(cfg.get('load_from'), str | None):
        raise SettingError(f'config {name}: load_from={cfg.load_from!r} must be a file, or None.')
    for stage, sections in STAGES.items():
        missing = [section for section in sections if cfg.get(section) is None]
        if missing and len(missing) < len(sections):
            there = ', '.join(section for section in sections if section not in missing)
            raise SettingError(f'config {name} has {there} without {", ".join(missing)}: {stage} needs all or none.')
    for section in DATALOADERS:
        loader = cfg.get(section)
        absent = [setting for setting in ('dataset', 'sampler') if loader is not None and setting not in loader]
        if absent:
            raise SettingError(
                f'config {name}: {section} needs {" and ".join(absent)}; it has {", ".join(loader) or "nothing"}.'
            )


def apply_cfg_options(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Change settings of a config as given by ``--cfg-options``, by their dotted keys.

    Raises:
        SettingError: A key leads nowhere, or its section is unknown to the config and to mmengine.
    """
    known = {*inspect.signature(Runner).parameters, *MORE_SECTIONS, *cfg}
    for key, value in (options or {}).items():
        section = key.partition('.')[0]
        if section not in known:
            raise SettingError(f'--cfg-options {key}: the config has no {section}.{did_you_mean(section, known)}')
        try:
            cfg.merge_from_dict({key: value})
        except Exception as error:  # mmengine's checks, and errors of lists
            text = ' '.join(str(error).split())[:300]
            raise SettingError(
                f'--cfg-options {key}={value!r} does not fit the config: {text or type(error).__name__}. Items of '
                'lists have numbers: a.b.0.c=...'
            ) from error
