"""The state of hooks in checkpoints."""

from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from icd_mmrazor.checkpoints.plain_values import is_plain, plain_value
from icd_mmrazor.engine.checks import ProvenanceCheck
from icd_mmrazor.engine.metrics import numbers_in
from icd_mmrazor.engine.resuming.known_states import (
    forget_queues_of_other_runs,
    get_state,
    is_foreign,
    is_stored,
    named_hooks,
    set_state,
    states_no_checkpoint_holds,
)
from icd_mmrazor.engine.runs import hooks_of, is_training
from icd_mmrazor.errors import SettingError

# in a checkpoint's meta
STATES, UNSAVED = 'hook_states', 'unsaved_hook_states'


class HookStates(Hook):
    """Store the state of hooks in checkpoints, and restore it when a run is resumed.

    mmengine stores nothing about its hooks but the averages of ``EMAHook`` and the best score of ``CheckpointHook``; an
    ``EarlyStoppingHook`` would count again from 0. Stored are the hooks of ``known_states``, and any hook that has
    ``state_dict()`` and ``load_state_dict(state)``; the first process writes it, all read it.

    If a checkpoint is written for a new best result, the hooks after ``CheckpointHook`` have not seen that validation
    yet: they see it on resume.

    A state that no checkpoint can hold is named when the training starts, and its resume is refused unless changes are
    only listed. Any other hook without these two methods whose attributes have changed is named in a warning.

    Raises:
        SettingError: See above.
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
        """Read the states of a checkpoint that is resumed.

        Raises:
            SettingError: The state of a hook cannot be in a checkpoint.
        """
        if not (runner._resume and is_training(runner)):
            return
        lost = '\n  '.join(states_no_checkpoint_holds(runner))
        if lost and all(check.changes == 'refuse' for check in hooks_of(runner, ProvenanceCheck)):
            raise SettingError(
                f'--resume: the checkpoint does not hold the state of these hooks:\n  {lost}\nTrain from the start, or '
                'continue without it: --resume-changes list.'
            )
        # a stranger's may hold anything
        meta = checkpoint['meta'] if isinstance(checkpoint.get('meta'), dict) else {}
        self._resumed = meta[STATES] if isinstance(meta.get(STATES), dict) else {}
        unsaved = meta[UNSAVED] if isinstance(meta.get(UNSAVED), dict) else {}
        self._unsaved = {name: list(map(str, names)) for name, names in unsaved.items() if isinstance(names, list)}

    def before_train(self, runner: Runner) -> None:
        """Restore the states, once the hooks are ready."""
        for line in states_no_checkpoint_holds(runner):
            runner.logger.warning(f'ExactResumeHook: this training cannot be resumed exactly. {line}.')
        forget_queues_of_other_runs(runner)
        if self._resumed is not None:
            for name, hook in named_hooks(runner):
                if is_stored(hook):
                    self._restore(runner, name, hook)
                elif is_foreign(hook) and name in self._unsaved:
                    runner.logger.warning(
                        f'ExactResumeHook: the checkpoint lacks the attributes {", ".join(self._unsaved[name])} of '
                        f'{name}, which starts over. If the result depends on them, give it state_dict() and '
                        'load_state_dict(state).'
                    )
        self._attributes_before = {
            name: _plain_attributes(hook) for name, hook in named_hooks(runner) if is_foreign(hook)
        }

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
        """Store the states."""
        states, unsaved = {}, dict(self._unsaved)
        after_checkpoint_hook = False
        for name, hook in named_hooks(runner):
            state = plain_value(get_state(hook, runner))
            if not is_plain(state):
                runner.logger.warning(
                    f'ExactResumeHook: state_dict() of {name} holds more than tensors and plain values, and is not '
                    'stored.'
                )
            elif state is not None:
                states[name] = {'state': state}
                if after_checkpoint_hook and self._metrics is not None:
                    states[name]['metrics'] = self._metrics
            elif name in self._attributes_before:
                before, now = self._attributes_before[name], _plain_attributes(hook)
                changed = [key for key, value in now.items() if before.get(key) != value]
                unsaved[name] = sorted({*unsaved.get(name, []), *changed})
            after_checkpoint_hook = after_checkpoint_hook or isinstance(hook, CheckpointHook)
        if states:
            checkpoint['meta'][STATES] = states
        if unsaved := {name: names for name, names in unsaved.items() if names}:
            checkpoint['meta'][UNSAVED] = unsaved

    def _restore(self, runner: Runner, name: str, hook: Hook) -> None:
        stored = self._resumed.get(name)
        state = stored.get('state') if isinstance(stored, dict) else None
        if not isinstance(state, dict) or not set_state(hook, runner, state):
            runner.logger.warning(
                f'ExactResumeHook: the checkpoint lacks the state of {name}, which starts over, so the result is not '
                'that of a run that was not stopped.'
            )
        elif isinstance(stored.get('metrics'), dict):
            hook.after_val_epoch(runner, metrics=stored['metrics'])


def _plain_attributes(hook: Hook) -> dict[str, str]:
    return {name: repr(value) for name, value in vars(hook).items() if is_plain(value)}
