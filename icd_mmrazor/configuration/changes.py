"""Settings that differ when a training is resumed."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from icd_mmrazor.configuration.type_names import PACKAGE, TYPES, registered, type_name

MISSING = object()
SHOWN_LENGTH = 60
# the sections that a training's result depends on
SECTIONS = (
    'auto_scale_lr',
    'custom_hooks',
    'data_preprocessor',
    'default_hooks',
    'model',
    'optim_wrapper',
    'param_scheduler',
    'randomness',
    'sync_bn',
    'train_cfg',
    'train_dataloader',
    'val_dataloader',
    'val_evaluator',
)
# their settings that change at most the rounding
WITHOUT_INFLUENCE = (
    'model.channels_last',
    'model.fold_teacher_norms',
    'model.teacher_cache.max_size',
    'model.teacher_cache.max_teacher_calls',
    'model.teacher_cache.path',
    'model.teacher_cache.verify',
    'model.teacher_offload',
    'model.torch_compile',
    'optim_wrapper.optimizer.foreach',
    'optim_wrapper.optimizer.fused',
    'train_cfg.val_begin',
    'train_cfg.val_interval',
    'val_dataloader.batch_size',
)
LOADER_SETTINGS = (
    'num_workers',
    'persistent_workers',
    'pin_memory',
    'pin_memory_device',
    'prefetch_factor',
    'timeout',
    'worker_init_fn',
    'multiprocessing_context',
)
# our default hooks that had another name in 0.1
RENAMED = {'initial_stage': 'loss_schedule'}
# hooks of mmengine and mmpretrain that watch, log or save
WATCHING = (
    'CheckpointHook',
    'EmptyCacheHook',
    'IterTimerHook',
    'LoggerHook',
    'ProfilerHook',
    'RuntimeInfoHook',
    'VisualizationHook',
)


def config_changes(then: Mapping[str, Any], now: Mapping[str, Any], exclude: Collection[str] = ()) -> list[str]:
    """Compare two configs setting by setting, as far as the result of a training depends on them.

    Paths are compared by their last part, so that a moved file or folder is the same; types by their names, however
    they are written.

    Args:
        then: The config in the checkpoint.
        now: The config of the run that resumes it.
        exclude: Names of more settings to leave out.

    Returns:
        A :func:`difference` each.
    """
    before, after = (dict(settings_of(_with_influence(cfg))) for cfg in (then, now))
    # the subnet of a pruned network may be a file on one side and the content of this file on the other
    files = tuple(f'{name}.' for name in before.keys() ^ after.keys() if name.endswith('.fix_subnet'))
    return [
        difference(name, before.get(name, MISSING), after.get(name, MISSING))
        for name in {**before, **after}
        if name not in exclude
        and not _is_ignored(name)
        and not f'{name}.'.startswith(files)
        and not _is_same(name, before.get(name, MISSING), after.get(name, MISSING))
    ]


def difference(name: str, then: Any, now: Any) -> str:
    """Format a difference: ``'train_cfg.max_epochs: 20 in the checkpoint, 40 now'``."""
    return f'{name}: {shown(then)} in the checkpoint, {shown(now)} now'


def _with_influence(cfg: Mapping[str, Any]) -> dict[str, Any]:
    hooks, custom = cfg.get('default_hooks') or {}, cfg.get('custom_hooks') or []
    return {
        **{section: cfg[section] for section in SECTIONS if section in cfg},
        **({'model': _without_exact_cache(cfg['model'])} if 'model' in cfg else {}),
        'default_hooks': {RENAMED.get(name, name): hook for name, hook in hooks.items() if _changes_training(hook)},
        'custom_hooks': dict(enumerate(hook for hook in custom if _changes_training(hook))),
    }


def _without_exact_cache(model: Any) -> Any:
    """Leave out a cache of the teacher's outputs that gives what the teacher would say."""
    cache = model.get('teacher_cache') if isinstance(model, Mapping) else None
    if not isinstance(cache, Mapping):
        return model
    if cache.get('views', 'all') == 'all' and cache.get('dtype') is None and cache.get('top_k') is None:
        return {name: value for name, value in model.items() if name != 'teacher_cache'}
    return model


def _changes_training(hook: Any) -> bool:
    kind = type_name(hook.get('type')) if isinstance(hook, Mapping) else ''
    ours = [cls for cls in registered(kind) if cls.__module__.partition('.')[0] == PACKAGE]
    if ours:  # they say so themselves
        return any(getattr(cls, 'changes_training', False) for cls in ours)
    return hook is not None and kind not in WATCHING


def settings_of(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """Yield nested settings by their dotted names, ``('train_cfg.max_epochs', 20)``; places in a list are names."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from settings_of(inner, f'{name}.{key}' if name else str(key))
    else:
        yield name, value


def _is_ignored(name: str) -> bool:
    parts = name.split('.')
    # initial weights are replaced by the checkpoint's; a scope only says where a type is looked up; the shape of the
    # images follows from the pipeline
    if 'init_cfg' in parts or parts[-1] in ('_scope_', 'image_shape'):
        return True
    if parts[0].endswith('_dataloader') and parts[1:2] and parts[1] in LOADER_SETTINGS:
        return True
    return any(f'{name}.'.startswith(f'{ignored}.') for ignored in WITHOUT_INFLUENCE)


def _is_same(name: str, then: Any, now: Any) -> bool:
    if name.rpartition('.')[2] in TYPES and type_name(then) and type_name(now):
        names = type_name(then), type_name(now)
        # a class may be registered under its former name, too
        return names[0] == names[1] or (registered(names[0]) == registered(names[1]) != [])
    if isinstance(then, str) and isinstance(now, str) and '/' in then + now:
        return PurePath(then).name == PurePath(now).name
    return then == now or (then != then and now != now)  # nan


def shown(value: Any) -> str:
    """Return the value of a setting as text, shortened; ``'not set'`` for ``MISSING``."""
    text = 'not set' if value is MISSING else repr(value)
    return text if len(text) <= SHOWN_LENGTH else f'{text[: SHOWN_LENGTH - 3]}...'
