"""The state of hooks, stored in the checkpoint."""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn

from icd_mmrazor.checkpoints.plain_values import is_plain, plain_value
from icd_mmrazor.engine.hooks.check_resume_hook import CheckResumeHook
from icd_mmrazor.engine.metrics import as_number, numbers_in
from icd_mmrazor.errors import SettingError

# in a checkpoint's meta
STATES, UNSAVED = 'hook_states', 'unsaved_hook_states'
# hooks that remember something beside what mmengine stores, and where
ATTRIBUTES = {
    'mmengine.EarlyStoppingHook': ('wait_count', 'best_score'),
    'mmengine.SyncBuffersHook': ('called_in_train',),
    'mmpretrain.WarmupParamHook': ('ori_val',),
    'mmrazor.ResourceInfoHook': ('save_ckpt_thr',),
}
SWAV = 'mmpretrain.SwAVHook'
# the state of their hooks is known: it is in this table, elsewhere in the checkpoint, or follows from the iteration
KNOWN_PACKAGES = {'mmengine', 'mmcv', 'mmpretrain', 'mmrazor', 'icd_mmrazor'}


@HOOKS.register_module()
class HookStateHook(Hook):
    """Store what hooks remember in the checkpoint, and give it back when the run is resumed.

    mmengine stores nothing of its hooks but what ``EMAHook`` averages and what ``CheckpointHook`` puts into the message
    hub. An ``EarlyStoppingHook``, for example, starts counting again after a resume, and the training does not stop
    where it would have. Stored are

    * the counters of mmengine's ``EarlyStoppingHook``, whether it has stopped the training, and the queue of
      mmpretrain's ``SwAVHook``, which otherwise lies in a file of the folder, of whatever epoch;
    * the value that ``WarmupParamHook`` warms up to, the thresholds that ``ResourceInfoHook`` (mmrazor) has left,
      and whether ``SyncBuffersHook`` has synchronized;
    * the state of any hook that has ``state_dict()`` and ``load_state_dict(state)``; the first process writes it, all
      read it.

    A checkpoint that is written with a new best result is written before the hooks behind ``CheckpointHook`` have seen
    that validation; they see it when the run is resumed.

    After a resume the weights of modules that a hook has exchanged (the loss of ``SwitchRecipeHook``) are those of the
    checkpoint, and a learning rate that a hook sets at the start of an epoch (``SimSiamHook``) is not set again in the
    middle of one.

    What cannot be resumed exactly is said when the training starts, and a resume is refused, with the name of the hook,
    unless ``CheckResumeHook`` has ``changes='list'``: ``SwAVHook`` with several processes, more than one ``EMAHook``,
    mmcv's ``RFSearchHook``. A hook of one's own without these two methods whose attributes have changed is named in a
    warning.

    Raises:
        SettingError: See above.

    Config example::

        default_hooks=dict(hook_states=dict(type='HookStateHook'))
    """

    # after the hooks that make themselves ready, before CheckpointHook, and before what validates at the start
    priority = 'LOW'

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        # what the checkpoint that is resumed has of hooks, None in a run that is not resumed
        self._resumed: dict[str, Any] | None = None
        # hooks of others whose attributes have changed, by their names
        self._unsaved: dict[str, list[str]] = {}
        self._attributes_before: dict[str, dict[str, Any]] = {}
        # what was loaded, and into which modules
        self._weights: Mapping[str, Tensor] = {}
        self._modules: dict[str, nn.Module] = {}
        # whether the checkpoint lies within an epoch, and the learning rates there
        self._within_epoch = False
        self._rates: list[tuple[dict, float]] = []
        # of the validation that hooks are seeing just now
        self._metrics: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        """Forget an earlier run."""
        self._forget()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take what is resumed.

        Raises:
            SettingError: The state of a hook is not in the checkpoint, and cannot be.
        """
        if not (runner._resume and isinstance(runner._train_loop, BaseLoop)):
            return
        lost = list(_not_stored(runner))
        if lost:
            listed = '\n  '.join(lost)
            checks = [hook for hook in runner.hooks if isinstance(hook, CheckResumeHook)]
            if not checks or checks[0].changes == 'refuse':
                raise SettingError(
                    f'--resume: what these hooks remember is not in the checkpoint:\n  {listed}\nTrain from the '
                    'beginning, or continue without it with --resume-changes list.'
                )
        # that of a stranger may hold anything
        meta = checkpoint['meta'] if isinstance(checkpoint.get('meta'), dict) else {}
        self._resumed = meta[STATES] if isinstance(meta.get(STATES), dict) else {}
        unsaved = meta[UNSAVED] if isinstance(meta.get(UNSAVED), dict) else {}
        self._unsaved = {name: list(map(str, names)) for name, names in unsaved.items() if isinstance(names, list)}
        self._weights, self._modules = checkpoint['state_dict'], dict(_model(runner).named_modules())
        trained = meta.get('trained_of_epoch')
        self._within_epoch = type(trained) is int and trained > 0

    def before_train(self, runner: Runner) -> None:
        """Give the hooks what they had, once they are ready."""
        for line in _not_stored(runner):
            runner.logger.warning(f'HookStateHook: this training cannot be resumed exactly. {line}.')
        for name, hook in _named(runner.hooks):
            if _kind(hook) == SWAV and get_world_size() == 1:
                # it has read a file that an earlier run has left in the folder
                _set_queue(hook, runner, None)
            if self._resumed is not None and _stored_attributes(hook) is not None:
                self._restore(runner, name, hook)
        if self._resumed is not None:
            self._warn_of_unsaved(runner)
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            self._within_epoch = runner.iter > 0
        if self._within_epoch:
            self._rates = [(group, group['lr']) for group in _parameter_groups(runner)]
        else:
            self._load_exchanged_modules(runner)
        self._attributes_before = {
            name: _plain_attributes(hook) for name, hook in _named(runner.hooks) if _unknown(hook)
        }

    def before_train_epoch(self, runner: Runner) -> None:
        """Leave what hooks set at the start of an epoch as it was within it."""
        self._load_exchanged_modules(runner)
        for group, rate in self._rates:
            group['lr'] = rate
        self._rates = []

    def before_val(self, runner: Runner) -> None:
        """Forget a validation that was interrupted."""
        self._metrics = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Keep the metrics for hooks that see them after the checkpoint is written."""
        metrics = metrics or {}
        self._metrics = {name: value for name, value in metrics.items() if is_plain(value)} | numbers_in(metrics)

    def after_val(self, runner: Runner) -> None:
        """All hooks have seen the validation."""
        self._metrics = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store what the hooks remember."""
        states, unsaved = {}, dict(self._unsaved)
        behind = False
        for name, hook in _named(runner.hooks):
            state = plain_value(_state_of(hook, runner))
            if not is_plain(state):
                runner.logger.warning(
                    f'HookStateHook: state_dict() of {name} holds more than tensors and plain values and is not stored.'
                )
            elif state is not None:
                states[name] = {'state': state}
                if behind and self._metrics is not None:
                    states[name]['metrics'] = self._metrics
            elif name in self._attributes_before:
                before, now = self._attributes_before[name], _plain_attributes(hook)
                changed = [key for key, value in now.items() if key not in before or before[key] != value]
                unsaved[name] = sorted({*unsaved.get(name, []), *changed})
            behind = behind or isinstance(hook, CheckpointHook)
        if states:
            checkpoint['meta'][STATES] = states
        if unsaved := {name: names for name, names in unsaved.items() if names}:
            checkpoint['meta'][UNSAVED] = unsaved

    def after_train(self, runner: Runner) -> None:
        """Forget the run."""
        self._forget()

    def _restore(self, runner: Runner, name: str, hook: Hook) -> None:
        stored = self._resumed.get(name)
        state = stored.get('state') if isinstance(stored, dict) else None
        if not isinstance(state, dict) or not _set_state(hook, runner, state):
            runner.logger.warning(
                f'HookStateHook: the checkpoint does not hold what {name} remembers, so it starts over, and the result '
                'is not that of a run that was not stopped.'
            )
        elif isinstance(stored.get('metrics'), dict):
            hook.after_val_epoch(runner, metrics=stored['metrics'])

    def _load_exchanged_modules(self, runner: Runner) -> None:
        if not self._modules:
            return
        for name, module in _model(runner).named_modules():
            if self._modules.get(name) is not module:
                prefix = f'{name}.' if name else ''
                own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
                for key, tensor in own:
                    loaded = self._weights.get(prefix + key)
                    if isinstance(loaded, Tensor) and loaded.shape == tensor.shape:
                        tensor.data.copy_(loaded)
        self._weights, self._modules = {}, {}

    def _warn_of_unsaved(self, runner: Runner) -> None:
        there = {name for name, hook in _named(runner.hooks) if _unknown(hook)}
        for name, names in self._unsaved.items():
            if name in there:
                runner.logger.warning(
                    f'HookStateHook: {name} has changed its attributes {", ".join(names)}, which are not in the '
                    'checkpoint: it starts over. If the result depends on them, give it state_dict() and '
                    'load_state_dict(state).'
                )


def _not_stored(runner: Runner) -> Iterator[str]:
    """Say which hooks of the run have a state that is not in a checkpoint."""
    averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    if len(averages) > 1:
        yield f'EMAHook: there are {len(averages)}, and mmengine stores the averages of one, in place of the weights'
    for name, hook in _named(runner.hooks):
        if _kind(hook) == SWAV and hook.queue_length > 0 and get_world_size() > 1:
            yield f'{name}: each process keeps its queue in its own file, which need not be of the same epoch'
        if _kind(hook) == 'mmcv.RFSearchHook':
            yield f'{name}: the structure that it has found so far is not in a checkpoint'


def _named(hooks: Iterable[Hook]) -> Iterator[tuple[str, Hook]]:
    """Yield hooks with their names; the second of a kind is ``'mmengine.EarlyStoppingHook 2'``."""
    count: Counter = Counter()
    for hook in hooks:
        name = _name(type(hook))
        count[name] += 1
        yield (name if count[name] == 1 else f'{name} {count[name]}'), hook


def _name(kind: type) -> str:
    return f'{kind.__module__.partition(".")[0]}.{kind.__name__}'


def _kind(hook: Hook) -> str | None:
    """Return which hook with a known state it is, or is derived from."""
    known = {*ATTRIBUTES, SWAV, 'mmcv.RFSearchHook'}
    return next((_name(kind) for kind in type(hook).__mro__ if _name(kind) in known), None)


def _has_state_dict(hook: Hook) -> bool:
    return callable(getattr(hook, 'state_dict', None)) and callable(getattr(hook, 'load_state_dict', None))


def _stored_attributes(hook: Hook) -> tuple[str, ...] | None:
    """Return the attributes that are stored; none, but a tuple, of a hook that stores itself; None if nothing is."""
    kind = _kind(hook)
    if _has_state_dict(hook) or (kind == SWAV and get_world_size() == 1):
        return ()
    # what a SyncBuffersHook remembers means nothing in a single process
    return ATTRIBUTES.get(kind) if getattr(hook, 'distributed', True) else None


def _state_of(hook: Hook, runner: Runner) -> dict[str, Any] | None:
    """Return what a hook remembers, None if nothing of it is to be stored."""
    if _has_state_dict(hook):
        return hook.state_dict()
    names = _stored_attributes(hook)
    if names is None:
        return None
    if _kind(hook) == SWAV:
        queue = _loss_with_queue(runner).queue
        return {'queue': None if queue is None else queue.detach().cpu()}
    state = {name: _storable(getattr(hook, name)) for name in names if hasattr(hook, name)}
    if _kind(hook) == 'mmengine.EarlyStoppingHook':
        state['stop_training'] = bool(runner.train_loop.stop_training)
    return state


def _set_state(hook: Hook, runner: Runner, state: dict[str, Any]) -> bool:
    """Give a hook what it had; return whether it could be."""
    if _has_state_dict(hook):
        hook.load_state_dict(state)
        return True
    if _kind(hook) == SWAV:
        _set_queue(hook, runner, state.get('queue'))
        return True
    names = _stored_attributes(hook) or ()
    if not all(type(state.get(name)) in (bool, int, float, str, list, Tensor) for name in names):
        return False
    for name in names:
        setattr(hook, name, state[name])
    if state.get('stop_training') is True:
        runner.train_loop.stop_training = True
        runner.logger.info(f'{_name(type(hook))} had ended this training.')
    return True


def _storable(value: Any) -> Any:
    number = as_number(value)
    if number is not None:
        return number
    return value.detach().cpu() if isinstance(value, Tensor) else copy.copy(value)


def _loss_with_queue(runner: Runner) -> nn.Module:
    return _model(runner).head.loss_module


def _set_queue(hook: Hook, runner: Runner, queue: Tensor | None) -> None:
    if queue is not None:
        queue = queue.to(next(_model(runner).parameters()).device)
    hook.queue = _loss_with_queue(runner).queue = queue


def _model(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _parameter_groups(runner: Runner) -> Iterator[dict]:
    wrapper = runner.optim_wrapper
    for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        yield from each.optimizer.param_groups


def _unknown(hook: Hook) -> bool:
    """Return whether nothing is known of a hook's state."""
    return _stored_attributes(hook) is None and type(hook).__module__.partition('.')[0] not in KNOWN_PACKAGES


def _plain_attributes(hook: Hook) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in vars(hook).items() if _is_comparable(value)}


def _is_comparable(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_comparable, value))
    if isinstance(value, dict):
        return all(_is_comparable(item) for pair in value.items() for item in pair)
    return value is None or type(value) in (bool, int, float, str)
