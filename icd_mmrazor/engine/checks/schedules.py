"""Schedules of the learning rate against the loop that trains."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.engine.runs import counts_iterations


class ScheduleCheck(Hook):
    """Warn of a schedule that never takes a step.

    A training that counts iterations is one epoch long to mmengine, so a schedule of epochs leaves the learning rate as
    it is, and ``convert_to_iter_based`` ends it after a pass through the data.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the schedules."""
        if not counts_iterations(runner):
            return
        schedules = runner.cfg.get('param_scheduler') or []
        for schedule in schedules if isinstance(schedules, list) else [schedules]:
            # not a dict: several optimizers, or a schedule that is built already
            if isinstance(schedule, dict) and 'type' in schedule and schedule.get('by_epoch', True):
                runner.logger.warning(
                    f'param_scheduler: {schedule["type"]} counts epochs, but train_cfg counts iterations, so it '
                    'does not follow the training. Set by_epoch=False, and its lengths in iterations.'
                )
