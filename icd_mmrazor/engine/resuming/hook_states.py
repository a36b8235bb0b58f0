"""The state of hooks in checkpoints."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook, Hook
from mmengine.runner import Runner

from icd_mmrazor.checkpoints.plain_values import is_plain, plain_value
from icd_mmrazor.engine.metrics import as_number, numbers_in
from icd_mmrazor.engine.runs import hooks_of, is_training

# in a checkpoint's meta
STATES, UNSAVED = 'hook_states', 'unsaved_hook_states'
# the state of their other hooks is elsewhere in the checkpoint, or follows from the iteration
KNOWN_PACKAGES = ('mmengine', 'icd_mmrazor')


class HookStates(Hook):
    """Store the state of hooks in checkpoints, and restore it when a run is resumed.

    mmengine stores the averages of ``EMAHook`` and the best score of ``CheckpointHook`` alone; an ``EarlyStoppingHook``
    would count again from 0. Here it is stored, and any hook that has ``state_dict()`` and ``load_state_dict(state)``;
    the first process writes, all read. Any other hook of another package whose attributes have changed is named in a
    warning.
    """

    # after the hooks that get ready, before CheckpointHook and the due validation
    priority = 75

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        # of the checkpoint; None in a run that is not resumed
        self._resumed: dict[str, Any] | None = None
        # changed attributes of foreign hooks, by the hooks' names
        self._unsaved: dict[str, list[str]] = {}
        self._attributes_before: dict[str, dict[str, str]] = {}
        # of the validation that hooks are seeing at the moment
        self._metrics: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        """Forget an earlier run."""
        self._reset()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read the states of a checkpoint that is resumed."""
        if not (runner._resume and is_training(runner)):
            return
        # a stranger's may hold anything
        meta = checkpoint['meta'] if isinstance(checkpoint.get('meta'), dict) else {}
        self._resumed = meta[STATES] if isinstance(meta.get(STATES), dict) else {}
        unsaved = meta[UNSAVED] if isinstance(meta.get(UNSAVED), dict) else {}
        self._unsaved = {name: list(map(str, names)) for name, names in unsaved.items() if isinstance(names, list)}

    def before_train(self, runner: Runner) -> None:
        """Restore the states, once the hooks are ready."""
        if several := several_averages(runner):
            runner.logger.warning(f'ExactResumeHook: this training cannot be resumed exactly. {several}.')
        hooks = list(_named_hooks(runner))
        for name, hook in hooks:
            if self._resumed is None:
                continue
            if _is_stored(hook):
                self._restore(runner, name, hook)
            elif _is_foreign(hook) and name in self._unsaved:
                runner.logger.warning(
                    f'ExactResumeHook: the checkpoint lacks the attributes {", ".join(self._unsaved[name])} of {name}, '
                    'which starts over. If the result depends on them, give it state_dict() and load_state_dict(state).'
                )
        self._attributes_before = {name: _plain_attributes(hook) for name, hook in hooks if _is_foreign(hook)}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Keep the metrics for hooks that see them after the checkpoint is written."""
        metrics = metrics or {}
        self._metrics = {name: value for name, value in metrics.items() if is_plain(value)} | numbers_in(metrics)

    def after_val(self, runner: Runner) -> None:
        """All hooks have seen the validation."""
        self._metrics = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the states."""
        states, unsaved = {}, dict(self._unsaved)
        after_checkpoint_hook = False
        for name, hook in _named_hooks(runner):
            state = plain_value(_get_state(hook, runner)) if _is_stored(hook) else None
            if not is_plain(state):
                runner.logger.warning(
                    f'ExactResumeHook: state_dict() of {name} holds more than tensors and plain values: not stored.'
                )
            elif state is not None:
                states[name] = {'state': state}
                # written for a new best result, which this hook has not seen yet: it sees it when it is resumed
                if after_checkpoint_hook and self._metrics is not None:
                    states[name]['metrics'] = self._metrics
            elif name in self._attributes_before:
                before, now = self._attributes_before[name], _plain_attributes(hook)
                changed = [key for key, value in now.items() if before.get(key) != value]
                unsaved[name] = sorted({*unsaved.get(name, []), *changed})
            after_checkpoint_hook = after_checkpoint_hook or isinstance(hook, CheckpointHook)
        unsaved = {name: names for name, names in unsaved.items() if names}
        checkpoint['meta'].update({key: value for key, value in ((STATES, states), (UNSAVED, unsaved)) if value})

    def _restore(self, runner: Runner, name: str, hook: Hook) -> None:
        stored = self._resumed.get(name)
        state = stored.get('state') if isinstance(stored, dict) else None
        if not isinstance(state, dict) or not _set_state(hook, runner, state):
            runner.logger.warning(
                f'ExactResumeHook: the checkpoint lacks the state of {name}, which starts over, so the result is not '
                'that of a run that was not stopped.'
            )
        elif isinstance(stored.get('metrics'), dict):
            hook.after_val_epoch(runner, metrics=stored['metrics'])


def several_averages(runner: Runner) -> str | None:
    """Return why a run with more than one ``EMAHook`` cannot be resumed; None if it has at most one."""
    count = len(hooks_of(runner, EMAHook))
    if count < 2:
        return None
    return f'EMAHook: there are {count}, and mmengine stores the averages of one, in place of the weights'


def _named_hooks(runner: Runner) -> Iterator[tuple[str, Hook]]:
    """Yield the hooks of a run with their names; the second of a kind is ``'mmengine.EarlyStoppingHook 2'``."""
    count: Counter = Counter()
    for hook in runner.hooks:
        name = f'{_package(hook)}.{type(hook).__name__}'
        count[name] += 1
        yield (name if count[name] == 1 else f'{name} {count[name]}'), hook


def _package(hook: Hook) -> str:
    return type(hook).__module__.partition('.')[0]


def _stores_itself(hook: Hook) -> bool:
    return callable(getattr(hook, 'state_dict', None)) and callable(getattr(hook, 'load_state_dict', None))


def _is_stored(hook: Hook) -> bool:
    return _stores_itself(hook) or isinstance(hook, EarlyStoppingHook)


def _is_foreign(hook: Hook) -> bool:
    """Return whether nothing is known about the state of a hook."""
    return not _is_stored(hook) and _package(hook) not in KNOWN_PACKAGES


def _plain_attributes(hook: Hook) -> dict[str, str]:
    return {name: repr(value) for name, value in vars(hook).items() if is_plain(value)}


def _get_state(hook: Hook, runner: Runner) -> dict[str, Any]:
    if _stores_itself(hook):
        return hook.state_dict()
    return {
        'wait_count': hook.wait_count,
        'best_score': as_number(hook.best_score),
        'stop_training': bool(runner.train_loop.stop_training),
    }


def _set_state(hook: Hook, runner: Runner, state: dict[str, Any]) -> bool:
    """Set the state of a hook from a checkpoint; return whether it is the state of such a hook."""
    if _stores_itself(hook):
        hook.load_state_dict(state)
        return True
    if not all(isinstance(state.get(name), int | float) for name in ('wait_count', 'best_score')):
        return False
    hook.wait_count, hook.best_score = state['wait_count'], state['best_score']
    if state.get('stop_training') is True:
        runner.train_loop.stop_training = True
        runner.logger.info('EarlyStoppingHook had ended this training.')
    return True
