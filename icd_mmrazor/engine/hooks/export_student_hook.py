"""The student of a distillation, ready to use, beside the checkpoints."""

import zipfile
import zlib
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.writing import write_checkpoint, write_checkpoint_file
from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.export.student import plain_student, student_checkpoint

CONFIG = 'student.py'


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Keep a distillation's student as a plain mmpretrain checkpoint with its config.

    Beside the checkpoints lie ``student_last.pth``, of the last one, ``student_best.pth``, of the best one if
    ``CheckpointHook`` keeps it (``save_best``; of several metrics that of the first), and their config ``student.py``.
    They are written anew whenever such a checkpoint is another one (its checksum is in their ``meta``), from that file,
    so that they hold what it holds, the averaged weights of ``EMAHook`` for example. mmpretrain's tools and inferencers
    take them::

        ImageClassificationInferencer('work_dirs/NAME/student.py', pretrained='work_dirs/NAME/student_best.pth')

    For a model that is no distillation it does nothing: its checkpoints are plain already
    (``tools/model_converters/export_student.py`` drops the optimizer from one). Without a ``CheckpointHook`` there is
    nothing to export. Checkpoints that are not in a local folder, or that are no plain weights
    (:class:`PlainCheckpointHook`), are left alone with a warning.

    Raises:
        SettingError: The run's own config is called ``student.py``, too: both would be one file.

    Config example::

        default_hooks=dict(export_student=dict(type='ExportStudentHook'))
    """

    # after CheckpointHook
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._checkpoints: CheckpointHook | None = None
        self._cfg: Config | None = None
        self._seen: dict[Path, tuple] = {}  # which checkpoint a student's file was last compared with

    def before_train(self, runner: Runner) -> None:
        """Find out whether there is a student, and who writes the checkpoints."""
        self._checkpoints = None
        if not {'architecture', 'distiller'} <= (runner.cfg.get('model') or {}).keys():
            return
        if Path(runner.cfg.filename or '').name == CONFIG:
            raise SettingError(
                f"ExportStudentHook: the run's config is called {CONFIG}, as the config of the exported student is, "
                'and mmengine writes it into the same folder. Give it another name.'
            )
        self._cfg = plain_student(runner.cfg)
        hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        if hook and not isinstance(hook.file_backend, LocalBackend):
            runner.logger.warning(
                f'ExportStudentHook: the checkpoints go to {hook.out_dir}, which is no local folder, so the student is '
                'not exported. Download one and call tools/model_converters/export_student.py CHECKPOINT OUT.'
            )
            hook = None
        self._checkpoints = hook

    def after_train_epoch(self, runner: Runner) -> None:
        """Export what was written at the end of the epoch."""
        self._update(runner)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Export what was written after the iteration, in a run that counts iterations."""
        if self._checkpoints and not self._checkpoints.by_epoch:
            self._update(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Export the best checkpoint, if it is a new one."""
        self._update(runner, metrics)

    @master_only
    def _update(self, runner: Runner, metrics: dict | None = None) -> None:
        hook, metrics = self._checkpoints, metrics or {}
        if hook is None:
            return
        best = next(iter(getattr(hook, 'best_ckpt_path_dict', {}).values()), None)
        for name, path in (('last', hook.last_ckpt), ('best', getattr(hook, 'best_ckpt_path', best))):
            # a run that was resumed in another folder does not have its earlier best one
            if path and Path(path).is_file():
                out = Path(path).with_name(f'student_{name}.pth')
                try:
                    self._export(Path(path), out, metrics if name == 'best' else {})
                except CheckpointError as error:  # no reason to end a training
                    runner.logger.warning(f'ExportStudentHook: the student is not exported. {error}')
                    self._checkpoints = None
                    return

    def _export(self, path: Path, out: Path, metrics: dict) -> None:
        found = path.stat()
        seen = path, found.st_ino, found.st_mtime_ns
        if self._seen.get(out) == seen and out.is_file():
            return
        self._seen[out], source = seen, _checksum(path)
        # another process may have exported it, whatever the times of the files are by now
        if out.is_file() and _source_of(out) == source:
            return
        student = student_checkpoint(read_checkpoint(path), self._cfg, str(path))
        numbers = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
        if numbers:
            student['meta']['metrics'] = numbers
        write_checkpoint_file(self._cfg.pretty_text, out.with_name(CONFIG))
        student['meta']['source'] = source
        write_checkpoint(student, out)


def _checksum(checkpoint: Path) -> int:
    """Return a checksum of all in a checkpoint, which the directory of the archive has already."""
    with zipfile.ZipFile(checkpoint) as archive:
        return zlib.crc32(repr([(member.filename, member.CRC) for member in archive.infolist()]).encode())


def _source_of(student: Path) -> int | None:
    """Return the checksum of the checkpoint that a student was exported from, ``None`` if it does not say."""
    try:
        return (read_checkpoint(student).get('meta') or {}).get('source')
    except CheckpointError:
        return None
