"""Training of the teaching assistants that a method needs."""

import argparse
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from mmengine.config import Config

from icd_mmrazor import recipes
from icd_mmrazor.checkpoints.writing import atomic_write, write_checkpoint_file
from icd_mmrazor.errors import UserError

METHOD = 'kd'
STUDENT = 'student_last.pth'


def train_assistants(
    pair: str, methods: str, options: Sequence[str], command: Callable[[Path, list[str]], list[str]]
) -> None:
    """Train the teaching assistants of a method on a pair that are missing, one after the other.

    The first one learns from the pair's teacher by KD, each further one from the one before, in the settings of the
    pair. They are trained in ``work_dirs/assistants/CHAIN_DATA/`` and end up in ``CHAIN_DATA.pth`` next to it, which
    all trainings share. One that was stopped is resumed. Another command that needs the same one waits for it.

    Args:
        pair: One of :func:`~icd_mmrazor.recipes.pair_names`.
        methods: A method, or several: ``'ceskd+dkd'``.
        options: Those of ``tools/train.py`` for the student. Assistants have the same ones, without settings of
            ``model``.
        command: Returns the words of the command that trains a config file with some options.

    Raises:
        SettingError: A method needs assistants, and none are known for the pair.
        UserError: A training failed.
    """
    before: dict[str, Any] = {}
    for method in (name for name in recipes.split_methods(methods) if name != recipes.STUDENT_ALONE):
        for assistant in recipes.assistants_of(method, pair):
            file = Path(assistant['teacher_ckpt'])
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix('.lock')):
                if not file.is_file():
                    cfg = recipes.compose(pair, [METHOD])
                    cfg.model.update(before, architecture=assistant['teacher'])
                    _train(cfg, file, options, command)
            before = assistant


def _train(cfg: Config, file: Path, options: Sequence[str], command: Callable[[Path, list[str]], list[str]]) -> None:
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
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--resume', nargs='?')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[])
    known, others = parser.parse_known_args(options)
    settings = [setting for setting in known.cfg_options if not setting.startswith('model.')]
    return [*others, '--resume', *(['--cfg-options', *settings] if settings else [])]
