"""Metrics that a training watches."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.optim import _ParamScheduler
from mmengine.runner import Runner

from icd_mmrazor.engine.metrics import as_number, best_metric, numbers_in
from icd_mmrazor.engine.runs import counts_iterations, hooks_of, is_training
from icd_mmrazor.errors import SettingError


class _Watcher(NamedTuple):
    """A setting that watches a metric; ``needed``: the training fails without it."""

    setting: str
    metric: str
    needed: bool = True


class MetricCheck(Hook):
    """Refuse a training that watches a metric which its validation does not give, or which is not a number.

    ``ReduceOnPlateauLR``, ``EarlyStoppingHook`` and ``CheckpointHook`` (``save_best``) watch metrics. To learn their
    names, one image is validated before the first epoch. If that fails, the first validation tells; the checkpoint of
    that epoch is then written before the training ends.

    What the training can do without is a warning: an ``EarlyStoppingHook`` that is not ``strict``, and
    ``save_best='auto'``.

    Raises:
        SettingError: A metric is missing or not a number.
    """

    # after EMAHook has put the weights back, before the hooks that watch
    priority = 55

    def before_train(self, runner: Runner) -> None:
        """Check the metrics of one image."""
        if runner.val_loop is None:
            return
        savers = [hook for hook in hooks_of(runner, CheckpointHook) if hook.save_best]
        # a loop that counts iterations stays in its epoch 0
        epochs = [0] if counts_iterations(runner) else range(max(runner.epoch, 1), runner.max_epochs + 1)
        watchers = [*_watchers(runner, epochs), *_best_metrics(savers)]
        automatic = [hook for hook in savers if 'auto' in hook.key_indicators]
        metrics = _metrics_of_one_image(runner) if watchers or automatic else None
        if metrics is None:
            return
        for hook in automatic:
            if best_metric(hook, numbers_in(metrics)) is None:
                runner.logger.warning(
                    f"default_hooks.checkpoint.save_best='auto' knows no rule of these metrics: {_listed(metrics)}. No "
                    "best checkpoint will be kept. Name a metric, with rule='greater' or 'less'."
                )
        _check(watchers, metrics, runner.logger.warning)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Check the metrics of a validation; keep the weights if one is missing."""
        if not is_training(runner):
            return
        try:
            _check(_watchers(runner, [runner.epoch]), metrics or {})
        except SettingError as error:
            _save_checkpoint(runner)
            raise SettingError(f'{error} Then continue with --resume --resume-changes list.') from None


def _watchers(runner: Runner, epochs: Iterable[int]) -> Iterator[_Watcher]:
    """Yield what looks at a metric in validations after these epochs."""
    schedulers = runner.param_schedulers or []
    for each in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
        for scheduler in each if isinstance(each, list) else []:
            watches = isinstance(scheduler, _ParamScheduler) and getattr(scheduler, 'need_val_args', False)
            # unless told otherwise it does not look at the last validation
            if watches and any(scheduler.begin <= epoch < scheduler.end for epoch in epochs):
                yield _Watcher(f'param_scheduler ({type(scheduler).__name__}): monitor', scheduler.monitor)
    for hook in hooks_of(runner, EarlyStoppingHook):
        yield _Watcher(f'{type(hook).__name__}: monitor', hook.monitor, hook.strict)


def _best_metrics(savers: Iterable[CheckpointHook]) -> Iterator[_Watcher]:
    for hook in savers:
        for metric in hook.key_indicators:
            if metric != 'auto':
                yield _Watcher(f'{type(hook).__name__}: save_best', metric)


def _check(watchers: Iterable[_Watcher], metrics: Mapping[str, Any], warn: Callable[[str], None] | None = None) -> None:
    """Refuse metrics that are needed and missing, or not a number; warn of others that are missing."""
    for watcher in watchers:
        missing = watcher.metric not in metrics
        if not missing and as_number(metrics[watcher.metric]) is not None:
            continue
        problem = 'is not among the metrics of the validation' if missing else 'is not a single number'
        message = f'{watcher.setting}={watcher.metric!r} {problem}. Its numbers: {_listed(metrics)}.'
        if watcher.needed or not missing:
            raise SettingError(f'{message} Name one of them, with its rule.')
        if warn is not None:
            warn(f'{message} So it will never stop the run.')


def _listed(metrics: Mapping[str, Any]) -> str:
    return ', '.join(numbers_in(metrics)) or 'none'


@torch.no_grad()
def _metrics_of_one_image(runner: Runner) -> dict[str, Any] | None:
    """Validate one image, each process for itself; return its metrics, None if that fails."""
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


def _save_checkpoint(runner: Runner) -> None:
    """Write the checkpoint of this epoch or iteration, unless it is there."""
    for hook in hooks_of(runner, CheckpointHook):
        step = runner.iter if counts_iterations(runner) or not hook.by_epoch else runner.epoch
        if hook.last_ckpt is None or not str(hook.last_ckpt).endswith(hook.filename_tmpl.format(step)):
            hook._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))
