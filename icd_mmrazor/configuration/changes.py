"""What is different in the config that a training goes on with."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from icd_mmrazor.configuration.type_names import TYPES, type_name

MISSING = object()
SHOWN_LENGTH = 60
# settings that have no influence on the result but for rounding, by their names with dots
WITHOUT_INFLUENCE = (
    'compile',
    'custom_imports',
    'default_scope',
    'env_cfg',
    'experiment_name',
    'find_unused_parameters',
    'launcher',
    'load_from',
    'log_level',
    'log_processor',
    'model.channels_last',
    'model.fold_teacher_norms',
    'model.torch_compile',
    'model_wrapper_cfg',
    'optim_wrapper.optimizer.foreach',
    'optim_wrapper.optimizer.fused',
    'resume',
    'test_cfg',
    'test_dataloader',
    'test_evaluator',
    'train_cfg.val_begin',
    'train_cfg.val_interval',
    'val_dataloader.batch_size',
    'vis_backends',
    'visualizer',
    'work_dir',
)
OF_LOADERS = (
    'num_workers',
    'persistent_workers',
    'pin_memory',
    'pin_memory_device',
    'prefetch_factor',
    'timeout',
    'worker_init_fn',
    'multiprocessing_context',
)
# hooks that watch, log and save
WATCHING_HOOKS = (
    'CheckBatchesHook',
    'CheckLabelsHook',
    'CheckMetricsHook',
    'CheckNumbersHook',
    'CheckPreparationHook',
    'CheckResumeHook',
    'CheckWeightsHook',
    'CheckpointHook',
    'IntactCheckpointHook',
    'DeferredRuntimeInfoHook',
    'DistillationReportHook',
    'EmptyCacheHook',
    'ExportStudentHook',
    'HookStateHook',
    'IterTimerHook',
    'LoggerHook',
    'PlainCheckpointHook',
    'ProfilerHook',
    'ResumedValidationHook',
    'RuntimeInfoHook',
    'StatusHook',
    'VisualizationHook',
)


def config_changes(then: Mapping[str, Any], now: Mapping[str, Any], but: Collection[str] = ()) -> list[str]:
    """Compare two configs setting by setting, but for what does not change the result of a training.

    That is where things are and how fast they go: folders, logs, workers, what watches and saves. Of a path its last
    part counts, so that a moved file or folder is the same. Of a type its name counts, however it is written.

    Args:
        then: The config of the checkpoint.
        now: The config that it is resumed with.
        but: Names of more settings that do not count.

    Returns:
        A line for each difference: ``'train_cfg.max_epochs: 20 in the checkpoint, 40 now'``.
    """
    before, after = (dict(_settings(_with_influence(cfg))) for cfg in (then, now))
    # the subnet of a pruned network: a file on one side, what was in it on the other
    files = tuple(f'{name}.' for name in before.keys() ^ after.keys() if name.endswith('.fix_subnet'))
    return [
        difference(name, before.get(name, MISSING), after.get(name, MISSING))
        for name in {**before, **after}
        if name not in but
        and not _ignored(name)
        and not f'{name}.'.startswith(files)
        and not _same(name, before.get(name, MISSING), after.get(name, MISSING))
    ]


def difference(name: str, then: Any, now: Any) -> str:
    """Return the line of a difference.

    Args:
        name: The setting.
        then: Its value in the checkpoint.
        now: Its value now.
    """
    return f'{name}: {_shown(then)} in the checkpoint, {_shown(now)} now'


def _with_influence(cfg: Mapping[str, Any]) -> dict[str, Any]:
    hooks, custom = cfg.get('default_hooks') or {}, cfg.get('custom_hooks') or []
    return {
        **cfg,
        'default_hooks': {name: hook for name, hook in hooks.items() if not _only_watches(hook)},
        'custom_hooks': dict(enumerate(hook for hook in custom if not _only_watches(hook))),
    }


def _only_watches(hook: Any) -> bool:
    kind = hook.get('type') if isinstance(hook, Mapping) else None
    return hook is None or type_name(kind) in WATCHING_HOOKS


def _settings(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _settings(inner, f'{name}.{key}' if name else str(key))
    else:
        yield name, value


def _ignored(name: str) -> bool:
    parts = name.split('.')
    # initial weights are overwritten by the checkpoint; where a type is looked up is a matter of how it is named
    if 'init_cfg' in parts or parts[-1] == '_scope_':
        return True
    if parts[0].endswith('_dataloader') and parts[1:2] and parts[1] in OF_LOADERS:
        return True
    return any(f'{name}.'.startswith(f'{ignored}.') for ignored in WITHOUT_INFLUENCE)


def _same(name: str, then: Any, now: Any) -> bool:
    if name.rpartition('.')[2] in TYPES and type_name(then) and type_name(now):
        return type_name(then) == type_name(now)
    if isinstance(then, str) and isinstance(now, str) and '/' in then + now:
        return PurePath(then).name == PurePath(now).name
    return then == now or (then != then and now != now)  # nan


def _shown(value: Any) -> str:
    text = 'not set' if value is MISSING else repr(value)
    return text if len(text) <= SHOWN_LENGTH else f'{text[: SHOWN_LENGTH - 3]}...'
