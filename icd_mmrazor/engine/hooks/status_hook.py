"""Where a training stands, in one line, and at its end what came out of it."""

import logging
import re
import shlex
from collections.abc import Mapping
from datetime import timedelta
from numbers import Real
from pathlib import Path
from time import monotonic
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from icd_mmrazor import compat
from icd_mmrazor.engine.metrics import as_number, numbers_in
from icd_mmrazor.errors import SettingError

# in a clone a link to the folder at the top
TEST_TOOL = Path(compat.__file__).parents[1] / '.mim' / 'tools' / 'test.py'
STUDENT_FILES = ('student_last.pth', 'student_best.pth', 'student.py')


@HOOKS.register_module()
class StatusHook(Hook):
    """Say after each validation where the training stands, and at its end what came out of it.

    A line of the log::

        epoch 2/20 | student 52.60 | best 52.60 (epoch 2) | teacher 98.60 | 0:00:21 left

    The numbers are of the metric that ``CheckpointHook`` watches for ``save_best``, else of the validation's first.
    The best is what ``CheckpointHook`` knows: without ``save_best`` there is none. The teacher's is what
    :class:`~icd_mmrazor.engine.hooks.DistillationReportHook` found. A plain training says "network" and has no
    teacher. The remaining time follows from the pace of this start of the training, validations and checkpoints
    included.

    Where the next validation is far, a line with the latest known numbers is added to those of ``LoggerHook`` and after
    epochs, at most one in ``interval`` seconds. No other iteration does more than look at the clock.

    The summary comes when the training loop has ended, and not when it was interrupted. It has the last and the best
    metric, the teacher's, the time since this start, the files, and the command that tests the last checkpoint.

    It also keeps some lines of mmengine out of the log, see :func:`icd_mmrazor.compat.drop_log_noise`.

    Args:
        interval: Seconds without a line after which one is written between validations; ``None``: never.

    Raises:
        SettingError: ``interval`` is negative or no number.

    Config example::

        default_hooks=dict(status=dict(type='StatusHook'))
    """

    # after CheckpointHook, which knows the best, and ExportStudentHook, which writes files
    priority = 'LOWEST'

    def __init__(self, interval: float | None = 60.0) -> None:
        number = isinstance(interval, int | float) and not isinstance(interval, bool)
        if interval is not None and not (number and interval >= 0):
            raise SettingError(
                f'StatusHook: interval={interval!r} must be a number of seconds, 0 or more, or None for no line '
                'between validations.'
            )
        self.interval = interval
        self._forget()

    def _forget(self) -> None:
        # whether a training runs, or a validation alone
        self._training = False
        # when this start of the training began, and after how many epochs or iterations
        self._start: tuple[float, float] | None = None
        # the time of the last line
        self._said_at = 0.0
        # the last validation: the metric's name, its value, and after how many epochs or iterations
        self._latest: tuple[str, float, float] | None = None

    def before_run(self, runner: Runner) -> None:
        """Keep what says nothing out of the log."""
        compat.drop_log_noise(runner.logger)

    def before_train(self, runner: Runner) -> None:
        """Forget an earlier training, which may have been interrupted."""
        self._forget()
        self._training = True

    @master_only
    def before_train_epoch(self, runner: Runner) -> None:
        """Write a line if the last one is long ago: of epochs that are neither validated nor logged on the way."""
        if self._start is not None and self._is_late():
            self._say(runner, _done(runner))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock at the first iteration: the teacher is evaluated, a resumed loop has skipped its data."""
        if self._start is None:
            self._said_at = monotonic()
            self._start = (self._said_at, _done(runner, batch_idx))

    @master_only
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Write a line beside that of ``LoggerHook`` if the last one is long ago."""
        if not self._is_late():
            return
        loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
        if any(self.every_n_inner_iters(batch_idx, logger.interval) for logger in loggers):
            self._say(runner, _done(runner, batch_idx + 1))

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write the line, if this is a validation of a training."""
        if not self._training:
            return
        name = _watched(runner, metrics or {})
        if name is not None:
            self._latest = (name, as_number(metrics[name]), _done(runner))
        self._say(runner, _done(runner))

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the summary."""
        runner.logger.info('\n'.join(self._summary(runner)))
        self._forget()

    def _is_late(self) -> bool:
        return self.interval is not None and monotonic() - self._said_at >= self.interval

    def _say(self, runner: Runner, done: float) -> None:
        """Write the line after so many epochs or iterations."""
        self._said_at = monotonic()
        unit, total = _unit(runner), _total(runner)
        parts = [f'{unit} {_count(done)}/{total}']
        if self._latest:
            _, value, then = self._latest
            parts.append(f'{_kind(runner)} {_number(value)}' + ('' if then == done else f' ({unit} {_count(then)})'))
        best, teacher = _best(runner), _teacher(runner)
        if best:
            parts.append(f'best {best}')
        if teacher is not None:
            parts.append(f'teacher {_number(teacher)}')
        # a resumed training may validate before it trains
        began_at, first = self._start or (0.0, done)
        if first < done < total:
            pace = (self._said_at - began_at) / (done - first)
            parts.append(f'{_duration(pace * (total - done))} left')
        runner.logger.info(' | '.join(parts))

    def _summary(self, runner: Runner) -> list[str]:
        """Return the lines of the summary; a row without content is left out."""
        unit = _unit(runner)
        position = f'{unit} {_count(_done(runner))}/{_total(runner)}'
        if self._start is None:
            title = f'Nothing was left to train: {position} had been reached before.'
        else:
            began_at, first = self._start
            resumed = f' (resumed at {unit} {_count(first)})' if first else ''
            title = f'The training has ended at {position} after {_duration(monotonic() - began_at)}{resumed}.'
        name, value, then = self._latest or ('', None, 0)
        best, teacher = _best(runner), _teacher(runner)
        last = f'{name} {_number(value)} ({unit} {_count(then)})' if name else ''
        folder, hub = Path(runner.work_dir), runner.message_hub.runtime_info
        checkpoint = hub.get('last_ckpt')
        weights = {'last': checkpoint, 'best': hub.get(_best_keys(_checkpoint_hook(runner))[1])}
        rows = {
            _kind(runner): ', '.join(part for part in (last, best and f'best {best}') if part),
            'teacher': '' if teacher is None else f'{_number(teacher)}{_gap(teacher, value)}',
            'folder': str(folder),
            'weights': ', '.join(f'{_inside(folder, file)} ({kind})' for kind, file in weights.items() if _there(file)),
            'exported': ', '.join(file for file in STUDENT_FILES if (folder / file).is_file()),
            'log': ', '.join(
                _inside(folder, handler.baseFilename)
                for handler in runner.logger.handlers
                if isinstance(handler, logging.FileHandler)
            ),
            'test': _test_command(runner, checkpoint) if _there(checkpoint) else '',
        }
        width = max(map(len, rows))
        return [title, *(f'  {name:{width}}  {content}' for name, content in rows.items() if content)]


def _unit(runner: Runner) -> str:
    return 'iteration' if isinstance(runner.train_loop, IterBasedTrainLoop) else 'epoch'


def _total(runner: Runner) -> int:
    return runner.max_iters if _unit(runner) == 'iteration' else runner.max_epochs


def _done(runner: Runner, batches: int | None = None) -> float:
    """Return after how many epochs, or iterations, a training is.

    Args:
        runner: The run.
        batches: How many batches of the current epoch are done, where one is running. mmengine takes a training by
            iterations for a single epoch.
    """
    if _unit(runner) == 'iteration':
        return runner.iter if batches is None else batches
    # not by runner.iter: a run that was resumed with another batch size has counted others
    return runner.epoch + (batches or 0) / len(runner.train_dataloader)


def _count(done: float) -> str:
    """Return ``12``, or ``12.41`` within an epoch."""
    return f'{done:.2f}'.removesuffix('.00')


def _kind(runner: Runner) -> str:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return 'student' if hasattr(model, 'architecture') else 'network'


def _checkpoint_hook(runner: Runner) -> CheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.save_best), None)


def _watched(runner: Runner, metrics: Mapping[str, Any]) -> str | None:
    """Return which metric is shown: the one that decides which checkpoint is the best, else the first number."""
    hook = _checkpoint_hook(runner)
    numbers = list(numbers_in(metrics))
    chosen = [name for name in (hook.key_indicators if hook else []) if name in numbers]
    return next(iter(chosen + numbers), None)


def _best_keys(hook: CheckpointHook | None) -> tuple[str, str]:
    """Return under which names the message hub has the best metric and its checkpoint."""
    several = hook is not None and len(hook.key_indicators) > 1
    suffix = f'_{hook.key_indicators[0]}' if several else ''
    return f'best_score{suffix}', f'best_ckpt{suffix}'


def _best(runner: Runner) -> str:
    """Return the best metric and when it was, also one of a start before this one; empty where there is none."""
    hook, hub = _checkpoint_hook(runner), runner.message_hub.runtime_info
    score, file = (hub.get(key) for key in _best_keys(hook))
    if hook is None or not isinstance(score, Real):
        return ''
    # mmengine keeps the epoch in the file's name alone
    pattern = r'(\d+)'.join(map(re.escape, re.split(r'\{.*?\}', hook.filename_tmpl)))
    found = re.search(f'{pattern}$', str(file))
    when = f' ({"epoch" if hook.by_epoch else "iteration"} {int(found[1])})' if found and found.groups() else ''
    return f'{_number(score)}{when}'


def _teacher(runner: Runner) -> float | None:
    metrics = runner.message_hub.runtime_info.get('teacher_metrics', {})
    return as_number(metrics.get(_watched(runner, metrics)))


def _gap(teacher: float, student: float | None) -> str:
    if student is None:
        return ''
    return f', {_number(abs(teacher - student))} {"above" if teacher > student else "below"} the student'


def _number(value: float) -> str:
    return f'{value:.2f}' if abs(value) >= 1 else f'{value:.4f}'


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _there(file: str | None) -> bool:
    """Return whether a checkpoint can be named: it has not been deleted or moved, or lies elsewhere than on a disk."""
    return bool(file) and ('://' in file or Path(file).exists())


def _inside(folder: Path, file: str) -> str:
    return str(Path(file).relative_to(folder)) if folder in Path(file).parents else file


def _test_command(runner: Runner, checkpoint: str) -> str:
    config = Path(runner.work_dir, Path(runner.cfg.filename or f'{runner.timestamp}.py').name)
    if not (runner.cfg.get('test_dataloader') and config.is_file() and TEST_TOOL.is_file()):
        return ''
    tool = TEST_TOOL.resolve()
    tool = tool.relative_to(Path.cwd()) if Path.cwd() in tool.parents else tool
    return shlex.join(['python', str(tool), str(config), checkpoint])
