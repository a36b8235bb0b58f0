"""What a training left in its work folder: its config and its latest checkpoint."""

import contextlib
from pathlib import Path

from mmengine.config import Config

from icd_mmrazor.configuration.stored import read_config_text
from icd_mmrazor.configuration.type_names import by_names
from icd_mmrazor.errors import CheckpointError, SettingError, contents

# a config, but the exported student's and not the run's
EXPORTED = 'student.py'
CHECKPOINTS = ('epoch_*.pth', 'iter_*.pth')
REMEDY = 'Name the folder that tools/train.py wrote: its --work-dir.'


def find_config(folder: Path) -> Config:
    """Read the config that mmengine dumped at the start of a folder's latest training. It is not executed.

    A start that logged nothing, a test of the network for example, counts only if there is no other.

    Args:
        folder: The training's ``work_dir``.

    Returns:
        The whole config, without ``_base_``.

    Raises:
        SettingError: There is no such folder, no config in it, or the config is not one that mmengine dumped.
    """
    folder = existing_folder(folder)
    dumped = sorted(
        folder.glob('*/vis_data/config.py'), key=lambda file: ((file.parent / 'scalars.json').is_file(), str(file))
    )
    # mmengine always writes this one; the others are its visualizer's, which a config can do without
    at_top = sorted(
        (file for file in folder.glob('*.py') if file.name != EXPORTED), key=lambda file: file.stat().st_mtime
    )
    if not dumped and not at_top:
        raise SettingError(
            f'work folder {folder} has no config: it holds {contents(folder)}. Expected is what mmengine dumps when a '
            f'training starts: YYYYMMDD_HHMMSS/vis_data/config.py or CONFIG_NAME.py. {REMEDY}'
        )
    file = (dumped or at_top)[-1]
    try:
        text = file.read_text(encoding='utf-8', errors='replace')
    except OSError as error:
        raise SettingError(f'config {file} cannot be read ({error.strerror}).') from error
    return by_names(read_config_text(text, f'config {file}'))


def find_checkpoint(folder: Path) -> Path:
    """Return a training's latest checkpoint.

    It is the one that mmengine's file ``last_checkpoint`` names, also where the folder was moved since; without that,
    the one of the highest epoch (or iteration).

    Args:
        folder: The training's ``work_dir``.

    Returns:
        The file.

    Raises:
        SettingError: There is no such folder.
        CheckpointError: There is no checkpoint in it.
    """
    folder = existing_folder(folder)
    pointer = folder / 'last_checkpoint'
    if pointer.is_file():
        named = pointer.read_text(errors='replace').strip()
        # the system refuses some texts as names, too long ones for example
        with contextlib.suppress(OSError, ValueError):
            # a copy of a folder has its own files, and its pointer names the original's; mmengine keeps checkpoints
            # elsewhere on request (out_dir)
            for file in (folder / Path(named).name, Path(named)):
                if file.is_file():
                    return file
    for pattern in CHECKPOINTS:
        files = [file for file in folder.glob(pattern) if _number(file) is not None]
        if files:
            return max(files, key=_number)
    raise CheckpointError(
        f'work folder {folder} has no checkpoint: it holds {contents(folder)}. Expected is epoch_N.pth, or the file '
        'that last_checkpoint names. Train until the first is written, or give a config and checkpoints by name.'
    )


def existing_folder(folder: Path) -> Path:
    """Return a work folder, with a leading ``~`` replaced.

    Args:
        folder: As a user named it.

    Raises:
        SettingError: There is no such folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        found = 'is a file' if folder.exists() else f'does not exist (working folder: {Path.cwd()})'
        raise SettingError(f'work folder {folder} {found}. {REMEDY}')
    return folder


def _number(checkpoint: Path) -> int | None:
    digits = checkpoint.stem.rpartition('_')[2]
    return int(digits) if digits.isdecimal() else None
