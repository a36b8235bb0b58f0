"""Report of a distillation: what is distilled, where it stands, what came out."""

import re
import shlex
from collections.abc import Mapping
from datetime import timedelta
from numbers import Real
from pathlib import Path
from time import monotonic
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from icd_mmrazor import checks
from icd_mmrazor.compat.messages import drop_log_noise
from icd_mmrazor.engine.description import (
    describe,
    describe_images,
    evaluate,
    images_of,
    loss_terms,
    why_not_evaluated,
)
from icd_mmrazor.engine.galleries import searches
from icd_mmrazor.engine.metrics import as_number, numbers_in
from icd_mmrazor.engine.runs import counts_iterations, hooks_of, model_of, steps_done

# in a clone a link to the folder at the top
TEST_TOOL = Path(__file__).parents[2] / '.mim' / 'tools' / 'test.py'
# why a teacher has not searched
NO_IMAGES = 'prototype of the student does not name images'
STUDENT_FILES = ('student_last.pth', 'student_best.pth', 'student.py')


@HOOKS.register_module()
class DistillationReportHook(Hook):
    """Log what is distilled, a line after each validation, and a summary at the end.

    At the start: teacher and student, the teacher's metrics on the validation set, and the terms of the loss. After a
    validation::

        epoch 2/20 | student 52.60 | best 52.60 (epoch 2) | teacher 98.60 | 0:00:21 left

    The numbers are of the metric that ``CheckpointHook`` watches (``save_best``), else of the first one. The remaining
    time follows from the pace since this start. The summary has the last and the best result, the exported student, and
    the command that tests the last checkpoint. A plain training has lines and summary, without a teacher.

    ``runner.message_hub.get_info('teacher_metrics')`` has the teacher's metrics.

    After the first batch, a line says how large the gradient of each term is, as a multiple of the task's: at the
    student's pooled feature, or at its weights if a term does not reach the feature. With ``gradient_norms=N``, every
    N-th iteration measures them again and logs them as ``gradient.icd``. A compiled loss has neither.

    Args:
        evaluate_teacher: Whether to evaluate the teacher before training, which takes as long as one validation by it.
            One that is trained along with the student (``teacher_trainable``) is not evaluated.
        gradient_norms: Whether to measure the gradients of the first batch, which takes a backward pass for each term;
            or, as a number of iterations, how often to measure them.

    Raises:
        SettingError: ``evaluate_teacher`` is not a bool, or ``gradient_norms`` neither a bool nor a positive integer.

    Config example::

        default_hooks=dict(distillation_report=dict(type='DistillationReportHook', evaluate_teacher=False))
    """

    # after CheckpointHook, which knows the best, and ExportStudentHook, which writes files
    priority = 98

    def __init__(self, evaluate_teacher: bool = True, gradient_norms: bool | int = True) -> None:
        self.evaluate_teacher = checks.boolean(self, 'evaluate_teacher', evaluate_teacher)
        of = checks.boolean if isinstance(gradient_norms, bool) else checks.positive_int
        self.gradient_norms = of(self, 'gradient_norms', gradient_norms)
        self._reset()

    def _reset(self) -> None:
        # a validation alone has no lines
        self._training = False
        # when the first epoch of this start began, and after how many epochs or iterations
        self._start: tuple[float, int] | None = None
        # the last validation: name and value of the metric, and after how many epochs or iterations
        self._latest: tuple[str, float, int] | None = None

    def before_run(self, runner: Runner) -> None:
        """Keep noise of mmengine out of the log."""
        drop_log_noise(runner.logger)

    def before_train(self, runner: Runner) -> None:
        """Evaluate the teacher and write the report."""
        self._reset()
        self._training = True
        algorithm = model_of(runner)
        if not hasattr(algorithm, 'teacher') or not hasattr(algorithm, 'distiller'):
            return
        if hasattr(algorithm, 'reports_gradients'):
            algorithm.reports_gradients = bool(self.gradient_norms)
        cfg = runner.cfg.get('model', {})
        trainable = sum(p.numel() for p in algorithm.distiller.parameters() if p.requires_grad)
        of_teacher, of_student = images_of(algorithm)
        weights = getattr(algorithm, 'teacher_ckpt', cfg.get('teacher_ckpt'))
        members = getattr(algorithm.teacher, 'members', [])
        lines = ['What is being distilled:']
        for i, network in enumerate(members):
            name = describe(network, cfg.teachers[i].teacher if 'teachers' in cfg else None)
            lines += [
                f'  teacher {i}  {name}{self._accuracy(runner, algorithm, i)}',
                f'             weights {weights[i]}',
                f'             images  {images_of(algorithm, i)[0]}',
            ]
        if members:
            lines.append(f'  teacher  {algorithm.teacher.description}{self._accuracy(runner, algorithm)}')
        else:
            lines += [
                f'  teacher  {describe(algorithm.teacher, cfg.get("teacher"))}{self._accuracy(runner, algorithm)}',
                f'           weights {"trained along with the student" if _is_trained(algorithm) else weights}',
                f'           images  {of_teacher}',
            ]
        lines += [
            f'  student  {describe(algorithm.architecture, cfg.get("architecture"))}',
            f'           images  {of_student}',
            f'  distiller: {trainable:,} trainable parameters',
            '  loss = ' + '\n       + '.join(loss_terms(algorithm)),
        ]
        if images := describe_images(runner.train_dataloader):
            lines.insert(-1, f'  training images: {images}')
        runner.logger.info('\n'.join(lines))

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the clock at the first epoch: the teacher is evaluated by then."""
        if self._start is None:
            self._start = (monotonic(), steps_done(runner))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Let an iteration measure the gradients if it is its turn."""
        algorithm = model_of(runner)
        if getattr(algorithm, 'first_batch_passed', False) and hasattr(algorithm, 'reports_gradients'):
            often = not isinstance(self.gradient_norms, bool)
            algorithm.reports_gradients = often and runner.iter % self.gradient_norms == 0

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write the line, if this is a validation of a training."""
        if not self._training:
            return
        name, done, total = _watched(runner, metrics or {}), steps_done(runner), _total(runner)
        parts = [f'{_unit(runner)} {done}/{total}']
        if name is not None:
            self._latest = (name, as_number(metrics[name]), done)
            parts.append(f'{_kind(runner)} {_number(self._latest[1])}')
        best, teacher = _best(runner), _teacher(runner)
        if best:
            parts.append(f'best {best}')
        if teacher is not None:
            parts.append(f'teacher {_number(teacher)}')
        # a resumed training may validate before it trains
        started, first = self._start or (0.0, done)
        if first < done < total:
            parts.append(f'{_duration((monotonic() - started) / (done - first) * (total - done))} left')
        runner.logger.info(' | '.join(parts))

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the summary."""
        unit, done = _unit(runner), steps_done(runner)
        reached = f'{unit} {done}/{_total(runner)}'
        title = f'Nothing was left to train: {reached} had been reached before.'
        if self._start is not None:
            started, first = self._start
            resumed = f' (resumed at {unit} {first})' if first else ''
            title = f'Training ended at {reached} after {_duration(monotonic() - started)}{resumed}.'
        name, value, step = self._latest or ('', None, 0)
        best, teacher = _best(runner), _teacher(runner)
        result = [f'{name} {_number(value)} ({unit} {step})'] if name else []
        if best:
            result.append(f'best {best}')
        compared = [] if teacher is None else [_number(teacher)]
        if compared and value is not None:
            compared.append(f'{_number(abs(teacher - value))} {"above" if teacher > value else "below"} the student')
        # with the checkpoints
        folder = next((hook.out_dir for hook in hooks_of(runner, CheckpointHook)), runner.work_dir)
        rows = {
            _kind(runner): ', '.join(result),
            'teacher': ', '.join(compared),
            'exported': ', '.join(file for file in STUDENT_FILES if Path(folder, file).is_file()),
            'test': _test_command(runner),
        }
        width = max(map(len, rows))
        rows = [f'  {row:{width}}  {content}' for row, content in rows.items() if content]
        runner.logger.info('\n'.join([title, *rows]))
        self._reset()

    def _accuracy(self, runner: Runner, algorithm: nn.Module, member: int | None = None) -> str:
        # one that is trained, too, soon has another
        if runner.val_loop is None or not self.evaluate_teacher or _is_trained(algorithm):
            return ''
        metrics = evaluate(algorithm, runner, member)
        # not kept in checkpoints: a resumed run evaluates its own teacher
        name = 'teacher_metrics' if member is None else f'teacher_{member}_metrics'
        runner.message_hub.update_info(name, metrics, resumed=False)
        if not metrics:
            reason = NO_IMAGES if searches(algorithm) else why_not_evaluated(algorithm, member)
            return f', not evaluated: {reason}' if reason else ''
        # some are lists, such as an accuracy for each class
        return ', validation set: ' + ', '.join(f'{name} {value:.2f}' for name, value in numbers_in(metrics).items())


def _unit(runner: Runner) -> str:
    return 'iteration' if counts_iterations(runner) else 'epoch'


def _total(runner: Runner) -> int:
    return runner.max_iters if counts_iterations(runner) else runner.max_epochs


def _kind(runner: Runner) -> str:
    return 'student' if hasattr(model_of(runner), 'architecture') else 'network'


def _saver(runner: Runner) -> CheckpointHook | None:
    return next((hook for hook in hooks_of(runner, CheckpointHook) if hook.save_best), None)


def _is_trained(algorithm: nn.Module) -> bool:
    return getattr(algorithm, 'teacher_trainable', False)


def _watched(runner: Runner, metrics: Mapping[str, Any]) -> str | None:
    """Return the metric that decides which checkpoint is the best, else the first number."""
    hook, numbers = _saver(runner), numbers_in(metrics)
    chosen = [name for name in (hook.key_indicators if hook else []) if name in numbers]
    return next(iter([*chosen, *numbers]), None)


def _best(runner: Runner) -> str:
    """Return the best score and when it was reached, in an earlier start perhaps; empty if there is none."""
    hook, hub = _saver(runner), runner.message_hub.runtime_info
    if hook is None:
        return ''
    suffix = f'_{hook.key_indicators[0]}' if len(hook.key_indicators) > 1 else ''
    score = hub.get(f'best_score{suffix}')
    if not isinstance(score, Real):
        return ''
    # mmengine keeps the epoch in the file's name alone
    pattern = r'(\d+)'.join(map(re.escape, re.split(r'\{.*?\}', hook.filename_tmpl)))
    found = re.search(f'{pattern}$', str(hub.get(f'best_ckpt{suffix}')))
    when = f' ({"epoch" if hook.by_epoch else "iteration"} {int(found[1])})' if found and found.groups() else ''
    return f'{_number(score)}{when}'


def _teacher(runner: Runner) -> float | None:
    metrics = runner.message_hub.runtime_info.get('teacher_metrics', {})
    return as_number(metrics.get(_watched(runner, metrics)))


def _number(value: float) -> str:
    return f'{value:.2f}' if abs(value) >= 1 else f'{value:.4f}'


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _test_command(runner: Runner) -> str:
    """Return the command that tests the last checkpoint; empty if one of its files is missing."""
    checkpoint = runner.message_hub.runtime_info.get('last_ckpt')
    if not (checkpoint and runner.cfg.get('test_dataloader')):
        return ''
    config = Path(runner.work_dir, Path(runner.cfg.filename or f'{runner.timestamp}.py').name)
    local = [config, TEST_TOOL, *([] if '://' in checkpoint else [Path(checkpoint)])]
    if not all(file.exists() for file in local):
        return ''
    tool = TEST_TOOL.resolve()
    tool = tool.relative_to(Path.cwd()) if Path.cwd() in tool.parents else tool
    return shlex.join(['python', str(tool), str(config), checkpoint])
