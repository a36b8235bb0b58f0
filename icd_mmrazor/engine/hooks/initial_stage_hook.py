"""The initial stage of distillers that train in two."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.engine.runs import counts_iterations, model_of
from icd_mmrazor.errors import SettingError

# in the message hub, which is resumed
STAGE = 'distiller_stage'


@HOOKS.register_module()
class InitialStageHook(Hook):
    """Run the initial stage of a distiller that has one (AB, FT, FSP), then its main stage with a fresh optimizer.

    The epochs of both stages are counted together: ``train_cfg.max_epochs`` is their sum, and a schedule of the main
    stage has ``begin`` at the end of the initial one.

    Raises:
        SettingError: The training counts iterations, or no epoch would be left for the main stage.

    Config example::

        default_hooks=dict(initial_stage=dict(type='InitialStageHook'))
    """

    # before the hooks that report
    priority = 'HIGH'
    changes_training = True

    def before_train(self, runner: Runner) -> None:
        """Check that there is a main stage."""
        epochs = getattr(_distiller(runner), 'initial_epochs', 0)
        if epochs and counts_iterations(runner):
            raise SettingError(
                f'train_cfg counts iterations, but model.distiller.initial_epochs={epochs} counts epochs. Set '
                'train_cfg=dict(by_epoch=True, max_epochs=...).'
            )
        if epochs and runner.max_epochs <= epochs:
            raise SettingError(
                f'train_cfg.max_epochs={runner.max_epochs} leaves no epoch for the main stage: '
                f'model.distiller.initial_epochs={epochs} count, too. Raise the one or lower the other.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the stage; start the main one without the momentum of the initial one."""
        distiller = _distiller(runner)
        epochs = getattr(distiller, 'initial_epochs', 0)
        if not epochs:
            return
        optimizer, stage = runner.optim_wrapper.optimizer, 'initial' if runner.epoch < epochs else 'main'
        distiller.set_stage(stage)
        # a run that is resumed within an epoch starts it twice
        entered = runner.message_hub.get_info(STAGE) != stage
        runner.message_hub.update_info(STAGE, stage)
        if runner.epoch == epochs and entered:
            optimizer.state.clear()
            # or the log would repeat their last values, and average the loss over both stages
            scalars = runner.message_hub.log_scalars
            for name in [name for name in scalars if name.startswith('train/') and 'loss' in name]:
                del scalars[name]
            runner.logger.info(f'The initial stage ended after {epochs} epochs; the main stage starts.')
        if distiller.initial_lr is None or runner.epoch > epochs or not entered:
            return
        for group in optimizer.param_groups:
            # mmengine's schedules keep the rate that a run starts with under this name
            group.setdefault('initial_lr', group['lr'])
            group['lr'] = distiller.initial_lr if stage == 'initial' else group['initial_lr']


def _distiller(runner: Runner) -> Any:
    return getattr(model_of(runner), 'distiller', None)
