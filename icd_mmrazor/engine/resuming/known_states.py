"""The state of hooks of other packages."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from icd_mmrazor.engine.metrics import as_number
from icd_mmrazor.engine.runs import hooks_of, model_of

# attributes with a state that mmengine does not store
ATTRIBUTES = {
    'mmengine.EarlyStoppingHook': ('wait_count', 'best_score'),
    'mmengine.SyncBuffersHook': ('called_in_train',),
    'mmpretrain.WarmupParamHook': ('ori_val',),
    'mmrazor.ResourceInfoHook': ('save_ckpt_thr',),
}
EARLY_STOPPING, SWAV, RF_SEARCH = 'mmengine.EarlyStoppingHook', 'mmpretrain.SwAVHook', 'mmcv.RFSearchHook'
# the state of their hooks is above, elsewhere in the checkpoint, or follows from the iteration
KNOWN_PACKAGES = {'mmengine', 'mmcv', 'mmpretrain', 'mmrazor', 'icd_mmrazor'}


def named_hooks(runner: Runner) -> Iterator[tuple[str, Hook]]:
    """Yield the hooks of a run with their names; the second of a kind is ``'mmengine.EarlyStoppingHook 2'``."""
    count: Counter = Counter()
    for hook in runner.hooks:
        name = _name(type(hook))
        count[name] += 1
        yield (name if count[name] == 1 else f'{name} {count[name]}'), hook


def is_stored(hook: Hook) -> bool:
    """Return whether the state of a hook is stored: it stores itself, or is of a kind known here."""
    if _stores_itself(hook):
        return True
    kind = _kind(hook)
    if kind == SWAV:
        return get_world_size() == 1
    # what a SyncBuffersHook remembers means nothing in a single process
    return kind in ATTRIBUTES and getattr(hook, 'distributed', True)


def is_foreign(hook: Hook) -> bool:
    """Return whether nothing is known about the state of a hook."""
    return not is_stored(hook) and type(hook).__module__.partition('.')[0] not in KNOWN_PACKAGES


def get_state(hook: Hook, runner: Runner) -> dict[str, Any] | None:
    """Return the state of a hook, None if there is nothing to store."""
    if not is_stored(hook):
        return None
    if _stores_itself(hook):
        return hook.state_dict()
    kind = _kind(hook)
    if kind == SWAV:
        queue = _swav_loss(runner).queue
        return {'queue': None if queue is None else queue.detach().cpu()}
    state = {name: _storable(getattr(hook, name)) for name in ATTRIBUTES[kind] if hasattr(hook, name)}
    if kind == EARLY_STOPPING:
        state['stop_training'] = bool(runner.train_loop.stop_training)
    return state


def set_state(hook: Hook, runner: Runner, state: dict[str, Any]) -> bool:
    """Set the state of a hook from a checkpoint; return whether it is the state of such a hook."""
    if _stores_itself(hook):
        hook.load_state_dict(state)
        return True
    kind = _kind(hook)
    if kind == SWAV:
        _set_queue(hook, runner, state.get('queue'))
        return True
    names = ATTRIBUTES[kind]
    if not all(type(state.get(name)) in (bool, int, float, str, list, Tensor) for name in names):
        return False
    for name in names:
        setattr(hook, name, state[name])
    if state.get('stop_training') is True:
        runner.train_loop.stop_training = True
        runner.logger.info(f'{_name(type(hook))} had ended this training.')
    return True


def forget_queues_of_other_runs(runner: Runner) -> None:
    """Empty the queue that ``SwAVHook`` has read from a file of an earlier run in the same folder."""
    for hook in runner.hooks:
        if _kind(hook) == SWAV and get_world_size() == 1:
            _set_queue(hook, runner, None)


def states_no_checkpoint_holds(runner: Runner) -> Iterator[str]:
    """Yield which hooks of a run have a state that is not in its checkpoints, and why."""
    averages = hooks_of(runner, EMAHook)
    if len(averages) > 1:
        yield f'EMAHook: there are {len(averages)}, and mmengine stores the averages of one, in place of the weights'
    for name, hook in named_hooks(runner):
        if _kind(hook) == SWAV and hook.queue_length > 0 and get_world_size() > 1:
            yield f'{name}: each process keeps its queue in its own file, which may be of another epoch'
        if _kind(hook) == RF_SEARCH:
            yield f'{name}: the structure found so far is not in a checkpoint'


def _name(kind: type) -> str:
    return f'{kind.__module__.partition(".")[0]}.{kind.__name__}'


def _kind(hook: Hook) -> str | None:
    """Return the known hook that a hook is or is derived from."""
    known = {*ATTRIBUTES, SWAV, RF_SEARCH}
    return next((_name(kind) for kind in type(hook).__mro__ if _name(kind) in known), None)


def _stores_itself(hook: Hook) -> bool:
    return callable(getattr(hook, 'state_dict', None)) and callable(getattr(hook, 'load_state_dict', None))


def _storable(value: Any) -> Any:
    number = as_number(value)
    if number is not None:
        return number
    return value.detach().cpu() if isinstance(value, Tensor) else copy.copy(value)


def _swav_loss(runner: Runner) -> nn.Module:
    return model_of(runner).head.loss_module


def _set_queue(hook: Hook, runner: Runner, queue: Tensor | None) -> None:
    if queue is not None:
        queue = queue.to(next(model_of(runner).parameters()).device)
    hook.queue = _swav_loss(runner).queue = queue
