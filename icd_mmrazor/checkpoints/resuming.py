"""Where a training that was interrupted can go on."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.errors import CheckpointError

POINTER = 'last_checkpoint'
NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
# what mmengine needs to go on
PARTS = ('meta', 'state_dict', 'message_hub', 'optimizer')


def missing_parts(checkpoint: Mapping[str, Any]) -> str:
    """Return what a checkpoint lacks of what a training goes on with, or an empty text.

    Args:
        checkpoint: What was read from its file.
    """
    missing = [name for name in PARTS if not isinstance(checkpoint.get(name), Mapping)]
    if 'meta' not in missing:
        missing += [f'meta.{name}' for name in ('epoch', 'iter') if not isinstance(checkpoint['meta'].get(name), int)]
    if not missing:
        return ''
    return (
        f'no {", ".join(missing)} (best_*.pth and files without an optimizer are for tools/test.py, load_from and '
        'teacher_ckpt)'
    )


def problem_with(file: Path) -> str | None:
    """Return why a training cannot go on from a file, or None if it can.

    The file is read once, for its check sums; of the weights only names and shapes are looked at.

    Args:
        file: The checkpoint.
    """
    try:
        missing = missing_parts(read_checkpoint(file, map_location='meta'))
    except CheckpointError as error:
        return str(error).splitlines()[0]
    return f'checkpoint {file} holds {missing}.' if missing else None


def newest_whole(folder: Path, but: Path | None = None) -> tuple[Path | None, list[str]]:
    """Find the checkpoint that a training in a folder goes on from; no file is changed.

    It is the one that ``last_checkpoint`` names, by its path or, where the folder was moved, by its name; where that
    one is damaged or gone, the newest ``epoch_*.pth`` or ``iter_*.pth``.

    Args:
        folder: The ``work_dir``.
        but: A file that is not asked for.

    Returns:
        The file, or None; and what is wrong with those that were looked at before.
    """
    named = _named(folder)
    numbered = [file for file in folder.glob('*_*.pth') if NUMBERED.fullmatch(file.name) and file.is_file()]
    numbered.sort(key=lambda file: (file.stat().st_mtime_ns, int(NUMBERED.fullmatch(file.name)[1])), reverse=True)
    candidates = [named, folder / named.name] if named else []
    problems, looked_at = [], {but.resolve()} if but else set()
    for file in [*candidates, *numbered]:
        # Path.is_file raises where the name is no name
        if not os.path.isfile(file) or file.resolve() in looked_at:  # noqa: PTH113 (see above)
            continue
        problem = problem_with(file)
        if not problem:
            return file, problems
        problems.append(problem)
        looked_at.add(file.resolve())
    if named and not problems and not but:
        problems.append(f'{folder / POINTER} names {named}, which is not there')
    return None, problems


def _named(folder: Path) -> Path | None:
    try:
        text = (folder / POINTER).read_text(errors='replace')[:4096].strip()
    except OSError:
        return None
    return Path(text) if text else None


def latest_checkpoint(work_dir: str) -> str | None:
    """Return the checkpoint that ``--resume`` goes on from; the first process decides for all of them.

    A damaged one stays where it is, and a warning names it and the one that is used instead.

    Args:
        work_dir: The run's folder.

    Returns:
        The file; None if there is none, and the training is to start from the beginning.

    Raises:
        CheckpointError: There was a training, and no whole checkpoint of it is left.
    """
    answer: list[str | None] = [None, None]
    if is_main_process():
        file, problems = newest_whole(Path(work_dir))
        listed, named = '\n  '.join(problems), _named(Path(work_dir))
        if file and problems:
            print_log(f'Going on from {file}, because:\n  {listed}', 'current', logging.WARNING)
        elif file and named != file:
            found = f'names {named}, which is not there' if named else 'names none'
            print_log(f'Going on from {file}, the newest there is: {POINTER} {found}.', 'current', logging.WARNING)
        elif problems:
            answer[1] = (
                f'--resume: no whole checkpoint is left in {work_dir}:\n  {listed}\nNothing was changed. Put a whole '
                'one there, or go on from one elsewhere (--resume FILE); to train from the beginning, delete '
                f'{Path(work_dir, POINTER)} and the damaged files.'
            )
        elif not file:
            print_log(f'There is no checkpoint in {work_dir} yet: the training starts from the beginning.', 'current')
        answer[0] = str(file) if file else None
    broadcast_object_list(answer)
    if answer[1]:
        raise CheckpointError(answer[1])
    return answer[0]


def explain_damage(file: str, error: CheckpointError) -> CheckpointError:
    """Return the error of a checkpoint that was to be resumed, with the one to take instead if it is damaged.

    Args:
        file: The checkpoint.
        error: What was said of it.
    """
    path = Path(file)
    if '://' in file or not path.is_file() or not problem_with(path):
        return error
    whole, _ = newest_whole(path.parent, but=path)
    remedy = f'The newest whole one beside it: --resume {whole}' if whole else 'There is no whole one beside it.'
    return CheckpointError(f'{error}\n{remedy}')


def follow_restart(cfg: Config) -> None:
    """Let a run that ``torchrun --max-restarts`` starts again go on from its own last checkpoint.

    The first start sets aside the ``last_checkpoint`` of an earlier run in the folder, unless it goes on from it; so a
    later start finds the one of this run, or none, and then begins as the first one did. The earlier run's checkpoints
    stay, and a ``--resume`` finds them without their ``last_checkpoint``. On several nodes nothing is done: each agent
    counts its own restarts only.

    Args:
        cfg: The run's; gets ``resume=True``.
    """
    several_nodes = os.environ.get('GROUP_WORLD_SIZE', '1') != '1'
    if several_nodes or os.environ.get('TORCHELASTIC_MAX_RESTARTS', '0') == '0':
        return
    pointer = Path(cfg.work_dir, POINTER)
    if os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') != '0':
        if pointer.is_file():
            cfg.resume, cfg.load_from = True, None
    elif os.environ.get('RANK') == '0' and not (cfg.get('resume') and not cfg.get('load_from')):
        pointer.unlink(missing_ok=True)
