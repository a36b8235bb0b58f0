"""Methods that train in two stages."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.errors import SettingError

# in the message hub, which is resumed
STAGE = 'distiller_stage'


@HOOKS.register_module()
class InitialStageHook(Hook):
    """Run the initial stage of a distiller that has one, then its main stage with a fresh optimizer.

    The epochs of both stages are counted together: ``train_cfg.max_epochs`` is their sum, and a schedule of the main
    stage has ``begin`` at the end of the initial one. A resumed run goes on in its stage. For all other models it does
    nothing.

    Raises:
        SettingError: No epoch would be left for the main stage.

    Config example::

        default_hooks=dict(initial_stage=dict(type='InitialStageHook'))
    """

    # before the hooks that report
    priority = 'HIGH'

    def before_train(self, runner: Runner) -> None:
        """Check that there is a main stage."""
        epochs = getattr(_distiller(runner), 'initial_epochs', 0)
        if epochs and runner.max_epochs <= epochs:
            raise SettingError(
                f'train_cfg.max_epochs={runner.max_epochs}, but the initial stage of the distiller alone has {epochs} '
                'epochs and the stages are counted together. Raise train_cfg.max_epochs, or lower '
                'model.distiller.initial_epochs.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the stage; forget the momentum of the initial stage when the main one begins."""
        distiller = _distiller(runner)
        epochs = getattr(distiller, 'initial_epochs', 0)
        if not epochs:
            return
        optimizer, initial = runner.optim_wrapper.optimizer, runner.epoch < epochs
        distiller.set_stage('initial' if initial else 'main')
        # a run that is resumed within an epoch, from a checkpoint between its ends, begins it twice
        entered = runner.message_hub.get_info(STAGE) != ('initial' if initial else 'main')
        runner.message_hub.update_info(STAGE, 'initial' if initial else 'main')
        if runner.epoch == epochs and entered:
            optimizer.state.clear()
            # or the log would go on with their last values, and the loss with a mean over both stages
            scalars = runner.message_hub.log_scalars
            for name in [name for name in scalars if name.startswith('train/') and 'loss' in name]:
                del scalars[name]
            runner.logger.info(f'The initial stage is over after {epochs} epochs; the main stage begins.')
        if distiller.initial_lr is None or runner.epoch > epochs or not entered:
            return
        for group in optimizer.param_groups:
            # mmengine's schedules keep the rate that a run begins with under this name; without one it is kept here
            group.setdefault('initial_lr', group['lr'])
            group['lr'] = distiller.initial_lr if initial else group['initial_lr']


def _distiller(runner: Runner) -> object:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return getattr(model, 'distiller', None)
