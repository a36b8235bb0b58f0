"""Training of the teaching assistants that a method needs."""

import argparse
import copy
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from mmengine.config import Config

from icd_mmrazor import recipes
from icd_mmrazor.checkpoints.writing import atomic_write, write_checkpoint_file
from icd_mmrazor.configuration.changes import config_changes
from icd_mmrazor.configuration.files import apply_cfg_options
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.command_line import parse_options
from icd_mmrazor.workflow.composition import configured

METHOD = 'kd'
STUDENT = 'student_last.pth'
# in the folder of an assistant: the config that was asked for
REQUESTED = 'requested.py'

# returns the words of the command that trains a config file with some options
Command = Callable[[Path, list[str]], list[str]]


def train_assistants(pair: str, methods: str, options: Sequence[str], command: Command) -> None:
    """Train the teaching assistants of a method on a pair that are missing, one after the other.

    The first one learns from the pair's teacher by KD, each further one from the one before, in the settings of the
    pair. They are trained in ``work_dirs/assistants/CHAIN_DATA/`` and end up in ``CHAIN_DATA.pth`` next to it, which
    all trainings share, whatever their seed. One that was stopped is resumed. Another command that needs the same one
    waits for it. An expert that the options name a checkpoint for (``model.teachers.0.teacher_ckpt=mine.pth``) is taken
    as it is.

    Args:
        pair: One of :func:`~icd_mmrazor.recipes.pair_names`.
        methods: A method, or several: ``'ceskd+dkd'``.
        options: Those of ``tools/train.py`` for the student. Assistants have the same ones, without settings of
            ``model``. They are checked before anything is trained.
        command: Returns the words of the command that trains a config file with some options.

    Raises:
        SettingError: A method needs assistants, and none are known for the pair; the options do not fit the student, or
            an assistant is there that was trained with other settings.
        UserError: A training failed.
    """
    names = [name for name in recipes.split_methods(methods) if name != recipes.STUDENT_ALONE]
    chain = [assistant for name in names for assistant in recipes.assistants_of(name, pair)]
    if not chain:
        return
    student, settings = configured(pair, methods, _settings(options)), _settings(options_for_assistants(options))
    *experts, teacher = student.model.teachers
    before = _network_of(teacher)
    for assistant, expert in zip(chain, experts[::-1], strict=True):
        default, file = assistant['teacher_ckpt'], Path(expert.teacher_ckpt)
        if expert.teacher_ckpt == default:
            cfg = recipes.compose(pair, [METHOD])
            cfg.model.update(before, architecture=expert.teacher)
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix('.lock')):
                _train_missing(cfg, file, options, settings, command)
        before = _network_of(expert)


def _network_of(expert: Mapping[str, Any]) -> dict[str, Any]:
    return {name: expert[name] for name in ('teacher', 'teacher_ckpt')}


def _train_missing(cfg: Config, file: Path, options: Sequence[str], settings: Sequence[str], command: Command) -> None:
    """Train an assistant, or check that the one that is there was trained with the same settings."""
    requested = copy.deepcopy(cfg)
    apply_cfg_options(requested, parse_options(settings))
    record = file.with_suffix('') / REQUESTED
    if not file.is_file():
        atomic_write(requested.pretty_text, record)
        _train(cfg, file, options, command)
    elif record.is_file():
        changes = config_changes(Config.fromfile(record), requested)
        changes = [change for change in changes if not change.startswith('randomness.')]
        if changes:
            raise SettingError(
                f'{file}: this teaching assistant was trained with other settings. {"; ".join(changes[:3])}. Remove it '
                f'and {file.with_suffix("")} to train it again, or give the same settings.'
            )


def _train(cfg: Config, file: Path, options: Sequence[str], command: Command) -> None:
    folder = file.with_suffix('')
    config = folder / f'{folder.name}.py'
    atomic_write(cfg.pretty_text, config)
    print(f'Teaching assistant {file.stem}: trained in {folder}', flush=True)
    words = command(config, ['--work-dir', str(folder), *options_for_assistants(options)])
    if code := subprocess.run(words, check=False).returncode:
        raise UserError(
            f'The training of the teaching assistant in {folder} ended with exit status {code}. Repeat the command to '
            'resume it.'
        )
    student = folder / STUDENT
    if not student.is_file():
        raise UserError(f'{student} is missing. Keep default_hooks.export_student, which writes it.')
    # not before the training has ended: the file says so
    write_checkpoint_file(student.read_bytes(), file)


def options_for_assistants(options: Sequence[str]) -> list[str]:
    """Return the options of ``tools/train.py`` that the training of an assistant has, given those of the student."""
    known, others = _parsed(options)
    settings = [setting for setting in known.cfg_options if not setting.startswith('model.')]
    return [*others, '--resume', *(['--cfg-options', *settings] if settings else [])]


def _settings(options: Sequence[str]) -> list[str]:
    """Return what follows ``--cfg-options``."""
    return _parsed(options)[0].cfg_options


def _parsed(options: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--resume', nargs='?')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[])
    return parser.parse_known_args(options)
