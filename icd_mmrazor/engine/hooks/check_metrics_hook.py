"""Metrics that a training watches, before it has begun."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.optim import _ParamScheduler
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from icd_mmrazor.engine.metrics import as_number, best_metric, numbers_in
from icd_mmrazor.errors import SettingError


@dataclass
class _Watcher:
    """A setting that watches a metric; ``needed``: the training ends in an error without it."""

    setting: str
    metric: str
    needed: bool = True


@HOOKS.register_module()
class CheckMetricsHook(Hook):
    """Refuse a training that watches a metric which its validation does not give, or which is not a number.

    ``ReduceOnPlateauLR``, ``EarlyStoppingHook`` and ``CheckpointHook`` (``save_best``) find that out at the end of the
    first validation. Here one image is validated before the first epoch to learn the names. Metrics that cannot be
    computed from one image are looked at in the first validation; the checkpoint of that epoch is written before the
    training ends.

    An ``EarlyStoppingHook`` that is not ``strict`` gets a warning only, and so does ``save_best='auto'`` where there is
    no number that could be the best: the training is as good without.

    Raises:
        SettingError: See above.

    Config example::

        default_hooks=dict(check_metrics=dict(type='CheckMetricsHook'))
    """

    # after EMAHook has put the weights back, before what watches
    priority = 'BELOW_NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Check the metrics of one image."""
        if runner.val_loop is None:
            return
        watchers = [*_watchers(runner, _validated_epochs(runner)), *_best_metrics(runner)]
        automatic = [hook for hook in _checkpoint_hooks(runner) if 'auto' in hook.key_indicators]
        metrics = _metrics_of_one_image(runner) if watchers or automatic else None
        if metrics is None:
            return
        for watcher in watchers:
            if not watcher.needed and watcher.metric not in metrics:
                runner.logger.warning(f'CheckMetricsHook: {_message(watcher, metrics)} So it will never stop the run.')
        for hook in automatic:
            if best_metric(hook, numbers_in(metrics)) is None:
                runner.logger.warning(
                    "CheckMetricsHook: default_hooks.checkpoint.save_best='auto' finds no metric whose rule is known "
                    f'({_listed(metrics)}), so no best checkpoint will be kept. Name a metric, and give rule="greater" '
                    'or "less".'
                )
        _refuse(watchers, metrics)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Check the metrics of a validation; keep what was trained if they are not the right ones."""
        if not isinstance(runner._train_loop, BaseLoop):  # a validation alone
            return
        try:
            _refuse(list(_watchers(runner, [runner.epoch])), metrics or {})
        except SettingError as error:
            _keep(runner)
            raise SettingError(f'{error} Then continue with --resume --resume-changes list.') from None


def _watchers(runner: Runner, epochs: Iterable[int]) -> Iterator[_Watcher]:
    """Yield what looks at a metric in the validations after these epochs."""
    schedulers = runner.param_schedulers or []
    for each in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
        for scheduler in each if isinstance(each, list) else []:
            watches = isinstance(scheduler, _ParamScheduler) and getattr(scheduler, 'need_val_args', False)
            # unless told otherwise it does not look at the last validation
            if watches and any(scheduler.begin <= epoch < scheduler.end for epoch in epochs):
                name = type(scheduler).__name__
                yield _Watcher(f'param_scheduler ({name}): monitor', scheduler.monitor)
    for hook in runner.hooks:
        if isinstance(hook, EarlyStoppingHook):
            yield _Watcher(f'{type(hook).__name__}: monitor', hook.monitor, hook.strict)


def _validated_epochs(runner: Runner) -> list[int]:
    """Return after which epochs there will be a validation; a loop that counts iterations is in its epoch 0."""
    loop = runner.train_loop
    if isinstance(loop, IterBasedTrainLoop):
        return [0]
    # a loop of one's own need not have these
    first, last = max(runner.epoch, getattr(loop, 'val_begin', 1), 1), runner.max_epochs
    intervals = getattr(loop, 'dynamic_intervals', [1])
    return [n for n in range(first, last + 1) if n == last or any(n % interval == 0 for interval in intervals)]


def _checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.save_best]


def _best_metrics(runner: Runner) -> Iterator[_Watcher]:
    for hook in _checkpoint_hooks(runner):
        for metric in hook.key_indicators:
            if metric != 'auto':
                yield _Watcher(f'{type(hook).__name__}: save_best', metric)


def _refuse(watchers: list[_Watcher], metrics: Mapping[str, Any]) -> None:
    for watcher in watchers:
        missing = watcher.metric not in metrics
        if (missing and watcher.needed) or (not missing and as_number(metrics[watcher.metric]) is None):
            raise SettingError(f'{_message(watcher, metrics)} Name one of them, with its rule.')


def _message(watcher: _Watcher, metrics: Mapping[str, Any]) -> str:
    there = 'is not a single number' if watcher.metric in metrics else 'is not among the metrics of the validation'
    return f'{watcher.setting}={watcher.metric!r} {there}. Its numbers: {_listed(metrics)}.'


def _listed(metrics: Mapping[str, Any]) -> str:
    return ', '.join(numbers_in(metrics)) or 'none'


@torch.no_grad()
def _metrics_of_one_image(runner: Runner) -> dict[str, Any] | None:
    """Validate one image, in each process for itself; return its metrics, None if that cannot be done."""
    loader, training, metrics = runner.val_loop.dataloader, runner.model.training, {}
    runner.model.eval()
    try:
        # a copy: what the metrics keep of this image must not count in the first validation
        evaluator = copy.deepcopy(runner.val_loop.evaluator)
        batch = loader.collate_fn([loader.dataset[0]])
        evaluator.process(data_samples=runner.model.val_step(batch), data_batch=batch)
        for metric in evaluator.metrics:
            # Metric.evaluate would wait for the other processes
            values = metric.compute_metrics(metric.results)
            metrics |= {f'{metric.prefix}/{name}' if metric.prefix else name: value for name, value in values.items()}
    except Exception:  # anything may fail with one image; the first validation tells
        return None
    finally:
        runner.model.train(training)
    return metrics


def _keep(runner: Runner) -> None:
    """Write the checkpoint of this epoch, or iteration, if that has not been done."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            counts_iterations = isinstance(runner.train_loop, IterBasedTrainLoop) or not hook.by_epoch
            step = runner.iter if counts_iterations else runner.epoch
            if hook.last_ckpt is None or not str(hook.last_ckpt).endswith(hook.filename_tmpl.format(step)):
                hook._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))
