"""The student of a distillation, ready to use, next to the checkpoints."""

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
from icd_mmrazor.engine.metrics import numbers_in
from icd_mmrazor.engine.runs import hooks_of
from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.export.student import plain_student, student_checkpoint

CONFIG = 'student.py'


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Keep a distillation's student as a plain mmpretrain checkpoint with its config.

    ``student_last.pth`` is the student of the last checkpoint, ``student_best.pth`` that of the best one
    (``save_best``; the first of several metrics), with averaged weights if the checkpoint has them (``EMAHook``).
    mmpretrain's tools and inferencers take them with their config ``student.py``::

        ImageClassificationInferencer('work_dirs/NAME/student.py', pretrained='work_dirs/NAME/student_best.pth')

    Checkpoints that are not in a local folder, or not plain weights, are left alone with a warning; models that are not
    distillations are plain already.

    Raises:
        SettingError: The run's own config is called ``student.py``, too.

    Config example::

        default_hooks=dict(export_student=dict(type='ExportStudentHook'))
    """

    # after CheckpointHook
    priority = 95

    def __init__(self) -> None:
        self._checkpoints: CheckpointHook | None = None
        self._cfg: Config | None = None
        # the checkpoint that a student's file was last compared with
        self._seen: dict[Path, tuple] = {}

    def before_train(self, runner: Runner) -> None:
        """Find out whether there is a student, and who writes the checkpoints."""
        self._checkpoints = None
        if not {'architecture', 'distiller'} <= (runner.cfg.get('model') or {}).keys():
            return
        if Path(runner.cfg.filename or '').name == CONFIG:
            raise SettingError(
                f"ExportStudentHook: the run's config is called {CONFIG}, as will be the exported student's. Rename it."
            )
        self._cfg = plain_student(runner.cfg)
        hook = next(iter(hooks_of(runner, CheckpointHook)), None)
        if hook and not isinstance(hook.file_backend, LocalBackend):
            runner.logger.warning(
                f'ExportStudentHook: the checkpoints go to {hook.out_dir}, which is not a local folder: no student is '
                'exported. Download one and call tools/model_converters/export_student.py CHECKPOINT OUT.'
            )
            hook = None
        self._checkpoints = hook
        # a best checkpoint of before a resume: the metrics of the next validation are not its own
        self._update(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Export the checkpoint of the epoch."""
        self._update(runner)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Export the checkpoint of the iteration, in a run that counts iterations."""
        if self._checkpoints and not self._checkpoints.by_epoch:
            self._update(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Export the best checkpoint, if it is a new one."""
        self._update(runner, metrics)

    @master_only
    def _update(self, runner: Runner, metrics: dict | None = None) -> None:
        hook = self._checkpoints
        if hook is None:
            return
        best = next(iter(getattr(hook, 'best_ckpt_path_dict', {}).values()), None)
        for name, path in (('last', hook.last_ckpt), ('best', getattr(hook, 'best_ckpt_path', best))):
            # a run that was resumed in another folder does not have its earlier best one
            if path and Path(path).is_file():
                out = Path(path).with_name(f'student_{name}.pth')
                try:
                    self._export(Path(path), out, (metrics or {}) if name == 'best' else {})
                except CheckpointError as error:  # not a reason to end a training
                    runner.logger.warning(f'ExportStudentHook: {out.name} is not exported. {error}')

    def _export(self, path: Path, out: Path, metrics: dict) -> None:
        """Write the student of a checkpoint, unless it is there: files are compared by content, not by time."""
        found = path.stat()
        seen = path, found.st_ino, found.st_mtime_ns
        if self._seen.get(out) == seen:
            return
        self._seen[out] = seen
        source = _checksum(path)
        if out.is_file() and _source_of(out) == source:
            return
        student = student_checkpoint(read_checkpoint(path), self._cfg, str(path))
        if numbers := numbers_in(metrics):
            student['meta']['metrics'] = numbers
        write_checkpoint_file(self._cfg.pretty_text, out.with_name(CONFIG))
        student['meta']['source'] = source
        write_checkpoint(student, out)


def _checksum(checkpoint: Path) -> int:
    """Return a checksum of the checksums in the archive."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return zlib.crc32(repr([(member.filename, member.CRC) for member in archive.infolist()]).encode())
    except zipfile.BadZipFile:
        raise CheckpointError(f'checkpoint {checkpoint} is damaged.') from None


def _source_of(student: Path) -> int | None:
    """Return the checksum of the checkpoint that a student was exported from; None if it is not known."""
    try:
        return (read_checkpoint(student).get('meta') or {}).get('source')
    except CheckpointError:
        return None
