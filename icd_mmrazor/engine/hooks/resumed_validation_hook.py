"""The validation that a stopped run had not finished."""

from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

# mmengine shows what begins with val in the line of a validation
VALIDATED = 'last_validation'


@HOOKS.register_module()
class ResumedValidationHook(Hook):
    """Let a resumed run begin with the validation that is due where it was stopped.

    mmengine writes the checkpoint of an epoch before it validates, and a resumed run goes on with the next epoch. A
    run that was killed while it validated loses the accuracy and perhaps the best checkpoint, and a schedule that
    follows a metric misses one. With this hook a run that is resumed from a checkpoint from before the validation
    validates first. A run that was killed after it does so, too, unless that checkpoint was written once more, which
    mmengine does for the best one; the result is the same.

    Config example::

        default_hooks=dict(resumed_validation=dict(type='ResumedValidationHook'))
    """

    # after the hooks that make the run ready; among those of this priority the last one in the config
    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Validate if it is due."""
        if runner.message_hub.get_info(VALIDATED) != _done(runner) and _is_due(runner):
            runner.logger.info('The checkpoint was written before the validation, which comes first.')
            for hook in runner.hooks:
                if isinstance(hook, CheckpointHook) and hook.last_ckpt is None:
                    # or it would not write it once more with the best metric
                    name = hook.filename_tmpl.format(runner.epoch if hook.by_epoch else runner.iter)
                    hook.last_ckpt = hook.file_backend.join_path(hook.out_dir, name)
            runner.val_loop.run()

    def before_val_epoch(self, runner: Runner) -> None:
        """Note it down: what is written from now on belongs to this validation or comes after it."""
        runner.message_hub.update_info(VALIDATED, _done(runner))


def _done(runner: Runner) -> int:
    return runner.iter if isinstance(runner._train_loop, IterBasedTrainLoop) else runner.epoch


def _is_due(runner: Runner) -> bool:
    """Decide as mmengine's loops do after an epoch, or an iteration."""
    loop = runner.train_loop
    done = _done(runner)
    if runner.val_loop is None or not done:
        return False
    loop._decide_current_val_interval()
    total = loop.max_iters if isinstance(loop, IterBasedTrainLoop) else loop.max_epochs
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == total)
