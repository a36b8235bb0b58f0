"""Where a training that was interrupted can go on."""

import zipfile
from pathlib import Path

from icd_mmrazor.utils.training_logs import METRIC, read_log


def prepare_resume(folder: Path, max_epochs: int) -> str | None:
    """Make ``last_checkpoint`` name a checkpoint that ``--resume`` can go on from. No checkpoint is deleted.

    A training that was ended while it validated its last epoch has the checkpoint and not the accuracy; resumed there
    it would have nothing left to do, so that it goes on from the one before. One that was ended while it wrote a
    checkpoint, or was moved, names a file that is cut off or not there.

    Args:
        folder: The training's ``work_dir``.
        max_epochs: Its number of epochs.

    Returns:
        None; or why it cannot go on, and the remedy.
    """
    log = read_log(folder)
    files = sorted((file for file in folder.glob('epoch_*.pth') if _epoch(file)), key=_epoch)
    # torch writes a zip archive, whose directory comes last
    whole = [file for file in files if zipfile.is_zipfile(file)]
    if files and not whole:
        return (
            f'{_names(files)}: cut off, and no other checkpoint is there to go on from. Delete it and '
            f'{folder / "last_checkpoint"} to train from the beginning.'
        )
    last = whole[-1] if whole else None
    if last and _epoch(last) == max_epochs not in log.accuracies:
        if log.other_metrics.get(max_epochs):
            return f'{last}: trained, but {wrong_metric(log.other_metrics[max_epochs])}.'
        if len(whole) == 1:
            config = next(iter(sorted(folder.glob('*.py'))), 'CONFIG')
            return (
                f'{last} is the last epoch, the log has no accuracy of it (the training was ended while it validated), '
                f'and no earlier checkpoint is there to go on from. Test it: tools/test.py {config} {last}; or delete '
                f'it and {folder / "last_checkpoint"} to train from the beginning.'
            )
        whole.pop()
    pointer = folder / 'last_checkpoint'
    if pointer.is_file():
        named = Path(pointer.read_text().strip() or '-')
        # one that somebody put there by hand is as good
        if not zipfile.is_zipfile(named) or (named in files and named not in whole):
            if whole:
                pointer.write_text(str(whole[-1]))
            else:
                pointer.unlink()
    return None


def wrong_metric(found: list[str]) -> str:
    """Return what to do about a validation without the accuracy.

    Args:
        found: The metrics that it has.
    """
    return (
        f'its validation gives {", ".join(found)}, not {METRIC}. A trial needs that one '
        "(val_evaluator=dict(type='Accuracy', topk=(1, 5)))"
    )


def _epoch(checkpoint: Path) -> int:
    digits = checkpoint.stem.removeprefix('epoch_')
    return int(digits) if digits.isdecimal() else 0


def _names(files: list[Path]) -> str:
    return ', '.join(map(str, files))
