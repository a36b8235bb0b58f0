"""Checkpoints that an interrupted training can resume from."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.errors import CheckpointError

POINTER = 'last_checkpoint'
NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
# what mmengine needs to resume
PARTS = ('meta', 'state_dict', 'message_hub', 'optimizer')


def missing_parts(checkpoint: Mapping[str, Any]) -> str:
    """Say which parts a checkpoint lacks for resuming a training; empty if none."""
    missing = [name for name in PARTS if not isinstance(checkpoint.get(name), Mapping)]
    if 'meta' not in missing:
        missing += [f'meta.{name}' for name in ('epoch', 'iter') if not isinstance(checkpoint['meta'].get(name), int)]
    hint = '(best_*.pth and files without an optimizer are for tools/test.py, load_from and teacher_ckpt)'
    return f'no {", ".join(missing)} {hint}' if missing else ''


def _problem_with(file: Path) -> str | None:
    """Say why a training cannot resume from a file, whose checksums are verified; None if it can."""
    try:
        missing = missing_parts(read_checkpoint(file, map_location='meta'))
    except CheckpointError as error:
        return str(error).splitlines()[0]
    return f'checkpoint {file} holds {missing}.' if missing else None


def latest_valid_checkpoint(folder: Path, exclude: Path | None = None) -> tuple[Path | None, list[str]]:
    """Find the checkpoint that a training in a folder resumes from.

    This is the one that ``last_checkpoint`` names, by its path or, in a folder that was moved, by its name; or the
    newest ``epoch_*.pth`` or ``iter_*.pth`` that is not damaged.

    Returns:
        The file, or None, and the problems of the candidates before it.
    """
    named = _named(folder)
    matches = [(file, NUMBERED.fullmatch(file.name)) for file in folder.glob('*_*.pth') if file.is_file()]
    by_age = [(file.stat().st_mtime_ns, int(match[1]), file) for file, match in matches if match]
    numbered = [file for *_, file in sorted(by_age, reverse=True)]
    candidates = [named, folder / named.name] if named else []
    problems, checked = [], {exclude.resolve()} if exclude else set()
    for file in [*candidates, *numbered]:
        # Path.is_file raises for invalid names
        if not os.path.isfile(file) or file.resolve() in checked:  # noqa: PTH113
            continue
        problem = _problem_with(file)
        if not problem:
            return file, problems
        problems.append(problem)
        checked.add(file.resolve())
    if named and not problems and not exclude:
        problems.append(f'{folder / POINTER} names {named}, which does not exist')
    return None, problems


def _named(folder: Path) -> Path | None:
    try:
        text = (folder / POINTER).read_text(errors='replace')[:4096].strip()
    except OSError:
        return None
    return Path(text) if text else None


def checkpoint_to_resume(work_dir: str) -> str | None:
    """Return the checkpoint in a run's folder that ``--resume`` continues from; the first process decides for all.

    A warning names a damaged checkpoint, which stays where it is, and the one that is used instead.

    Returns:
        The file; None if the training has to start from scratch.

    Raises:
        CheckpointError: There was a training, and no valid checkpoint of it is left.
    """
    answer: list[str | None] = [None, None]
    if is_main_process():
        file, problems = latest_valid_checkpoint(Path(work_dir))
        listed, named = '\n  '.join(problems), _named(Path(work_dir))
        if file and problems:
            print_log(f'Resuming from {file}, because:\n  {listed}', 'current', logging.WARNING)
        elif file and named != file:
            found = f'names {named}, which does not exist' if named else 'is missing'
            print_log(f'Resuming from {file}, the newest one: {POINTER} {found}.', 'current', logging.WARNING)
        elif problems:
            answer[1] = (
                f'--resume: no valid checkpoint is left in {work_dir}:\n  {listed}\nNothing was changed. Resume from '
                f'another one (--resume FILE), or delete {Path(work_dir, POINTER)} and the damaged files to start '
                'from scratch.'
            )
        elif not file:
            print_log(f'There is no checkpoint in {work_dir} yet: the training starts from scratch.', 'current')
        answer[0] = str(file) if file else None
    broadcast_object_list(answer)
    if answer[1]:
        raise CheckpointError(answer[1])
    return answer[0]


def explain_damage(file: str, error: CheckpointError) -> CheckpointError:
    """Return the error of a checkpoint that cannot be resumed; if it is damaged, with the one to take instead."""
    path = Path(file)
    # Path.is_file raises for invalid names
    if not os.path.isfile(file) or not _problem_with(path):  # noqa: PTH113
        return error
    valid, _ = latest_valid_checkpoint(path.parent, exclude=path)
    remedy = f'The newest valid one next to it: --resume {valid}' if valid else 'There is no valid one next to it.'
    return CheckpointError(f'{error}\n{remedy}')
