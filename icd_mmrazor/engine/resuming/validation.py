"""The validation that a stopped run had not finished."""

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from icd_mmrazor.engine.runs import counts_iterations, hooks_of, steps_done

# mmengine logs what starts with val among the metrics of a validation
VALIDATED = 'last_validation'


class DueValidation(Hook):
    """Start a resumed run with the validation that was due when it was stopped.

    mmengine writes the checkpoint of an epoch before it validates: the accuracy would be lost, perhaps the best
    checkpoint, and a step of a schedule that follows a metric.
    """

    # after all hooks are ready
    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Validate if it is due."""
        if runner.message_hub.get_info(VALIDATED) == steps_done(runner) or not _is_due(runner):
            return
        runner.logger.info("The checkpoint predates this epoch's validation; validating first.")
        for hook in hooks_of(runner, CheckpointHook):
            if hook.last_ckpt is None:
                # so that a new best metric is written into it, as in a run that was not stopped
                name = hook.filename_tmpl.format(runner.epoch if hook.by_epoch else runner.iter)
                hook.last_ckpt = hook.file_backend.join_path(hook.out_dir, name)
        runner.val_loop.run()

    def before_val_epoch(self, runner: Runner) -> None:
        """Note it in the message hub: checkpoints from now on belong to this validation or come after it."""
        runner.message_hub.update_info(VALIDATED, steps_done(runner))


def _is_due(runner: Runner) -> bool:
    """Decide as mmengine's loops do after an epoch or an iteration."""
    loop, done = runner.train_loop, steps_done(runner)
    # a loop of another kind decides for itself
    if runner.val_loop is None or not done or not isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop):
        return False
    loop._decide_current_val_interval()
    total = loop.max_iters if counts_iterations(runner) else loop.max_epochs
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == total)
