"""Losses of a distillation that change during the training."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.engine.runs import counts_iterations, model_of, optimizers_of
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.student_losses import losses_of
from icd_mmrazor.models.distillers.weight_schedule import ScheduledWeight, WeightSchedule

# in the message hub, which is resumed
STAGE = 'distiller_stage'
FRESH = 'fresh_optimizer_epoch'


@HOOKS.register_module()
# its name before weights could change, which stored configs have
@HOOKS.register_module(name='InitialStageHook')
class LossScheduleHook(Hook):
    """Change a distillation over time: an initial stage (AB, FT, FSP), weights with a schedule, fresh optimizers (HKD).

    The initial stage of a distiller that has one comes first, and then its main stage with a fresh optimizer. The
    epochs of both stages are counted together: ``train_cfg.max_epochs`` is their sum, and a schedule of the main stage
    has ``begin`` at the end of the initial one.

    A ``weight_schedule`` of a loss, or a loss that changes by itself (CTKD), counts epochs or iterations from the start
    of the main stage.

    Args:
        fresh_optimizer: Whether each epoch starts without the optimizer's momentum, as HKD's training does, which makes
            a new optimizer for each; or the epochs that do, counted from 0. The learning rate follows its schedule.

    Raises:
        SettingError: ``fresh_optimizer`` is neither, the training counts iterations and something counts epochs, no
            epoch would be left for the main stage, or its schedule starts later than the stage.

    Config example::

        default_hooks=dict(loss_schedule=dict(type='LossScheduleHook'))
    """

    # before the hooks that report
    priority = 'HIGH'
    changes_training = True

    def __init__(self, fresh_optimizer: bool | Sequence[int] = False) -> None:
        every_epoch = isinstance(fresh_optimizer, bool)
        if not every_epoch and not _are_epochs(fresh_optimizer):
            raise SettingError(
                f'LossScheduleHook: fresh_optimizer={fresh_optimizer!r} must be True, False or a list of epochs, '
                'counted from 0.'
            )
        self.fresh_optimizer = fresh_optimizer if every_epoch else frozenset(fresh_optimizer)

    def before_train(self, runner: Runner) -> None:
        """Check that there is a main stage, and that what counts epochs can."""
        epochs = _initial_epochs(runner)
        if counts_iterations(runner):
            _refuse_epochs(runner, epochs, bool(self.fresh_optimizer))
        elif epochs and runner.max_epochs <= epochs:
            raise SettingError(
                f'train_cfg.max_epochs={runner.max_epochs} leaves no epoch for the main stage: '
                f'model.distiller.initial_epochs={epochs} count, too. Raise the one or lower the other.'
            )
        elif epochs:
            _check_begin(runner, epochs)
        for name, schedule in _schedules(runner):
            _warn_of_end(runner, name, schedule)
        if isinstance(self.fresh_optimizer, frozenset):
            late = sorted(epoch for epoch in self.fresh_optimizer if epoch >= runner.max_epochs)
            if late:
                runner.logger.warning(
                    f'LossScheduleHook: fresh_optimizer has {", ".join(map(str, late))}, but the training ends after '
                    f'{runner.max_epochs} epochs, which are counted from 0.'
                )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Tell weights and losses that change how far the training is."""
        # a BranchedClassifier has no distiller
        part = _distiller(runner) or model_of(runner)
        if not hasattr(part, 'set_progress'):
            return
        epoch, iteration = runner.epoch - _initial_epochs(runner), runner.iter - _initial_iterations(runner)
        part.set_progress(max(0, epoch), max(0, iteration))

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the stage; start the main one, and epochs with a fresh optimizer, without momentum."""
        self._forget_momentum(runner)
        distiller, epochs = _distiller(runner), _initial_epochs(runner)
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

    def _forget_momentum(self, runner: Runner) -> None:
        fresh, epoch = self.fresh_optimizer, runner.epoch
        # a run that is resumed within an epoch starts it twice
        if (fresh is True or (fresh and epoch in fresh)) and runner.message_hub.get_info(FRESH) != epoch:
            for wrapper in optimizers_of(runner):
                wrapper.optimizer.state.clear()
            runner.message_hub.update_info(FRESH, epoch)


def _are_epochs(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(epoch) is int and epoch >= 0 for epoch in value)


def _schedules(runner: Runner) -> Iterator[tuple[str, WeightSchedule]]:
    """Yield the schedules of the losses, by their names."""
    for path, module in model_of(runner).named_modules():
        if isinstance(module, ScheduledWeight):
            # a distiller has scheduled_weights.NAME, a loss of its own weight NAME.scheduled_weight
            yield path.removesuffix('.scheduled_weight').rpartition('.')[2], module.schedule


def _check_begin(runner: Runner, initial_epochs: int) -> None:
    """Check that the learning rate follows its schedule from the start of the main stage."""
    schedules = runner.param_schedulers or []
    groups = schedules.values() if isinstance(schedules, dict) else [schedules]
    begins = [each.begin for group in groups for each in group if each.by_epoch]
    if not begins or min(begins) == initial_epochs:
        return
    remedy = f'Set param_scheduler.begin={initial_epochs}, and train_cfg.max_epochs to the sum of both stages.'
    if min(begins) > initial_epochs:
        raise SettingError(
            f'param_scheduler begins after {min(begins)} epochs, but model.distiller.initial_epochs={initial_epochs}. '
            f'{remedy}'
        )
    runner.logger.warning(
        f'LossScheduleHook: param_scheduler begins after {min(begins)} epochs, within the initial stage of '
        f'{initial_epochs}. {remedy}'
    )


def _refuse_epochs(runner: Runner, initial_epochs: int, fresh_optimizer: bool) -> None:
    """Refuse whatever counts epochs, in a training that counts iterations."""
    schedules = ', '.join(name for name, schedule in _schedules(runner) if schedule.by_epoch)
    counting = ((name, loss) for name, loss in losses_of(_distiller(runner)) if getattr(loss, 'counts_epochs', False))
    losses = ', '.join(f'{name} ({type(loss).__name__})' for name, loss in counting)
    by_epoch = 'Set train_cfg=dict(by_epoch=True, max_epochs=...).'
    by_iteration = 'Set its by_epoch=False, with begin and end in iterations.'
    for found, problem, remedy in (
        (initial_epochs, f'model.distiller.initial_epochs={initial_epochs} counts epochs', by_epoch),
        (schedules, f'the weight_schedule of {schedules} counts epochs', by_iteration),
        (losses, f'{losses} changes over the epochs', by_epoch),
        (fresh_optimizer, 'default_hooks.loss_schedule.fresh_optimizer counts epochs', by_epoch),
    ):
        if found:
            raise SettingError(f'train_cfg counts iterations, but {problem}. {remedy}')


def _warn_of_end(runner: Runner, name: str, schedule: WeightSchedule) -> None:
    """Warn of a weight that would still change when the training ends."""
    if schedule.by_epoch:
        unit, length = 'epochs', runner.max_epochs - _initial_epochs(runner)
    else:
        unit, length = 'iterations', runner.max_iters - _initial_iterations(runner)
    if schedule.end is not None and length < schedule.end:
        runner.logger.warning(
            f'LossScheduleHook: the weight of {name} changes over {schedule.end} {unit}, but the training ends after '
            f'{length}, at {schedule.factor(length - 1):.2g} of it. Set weight_schedule.end in proportion.'
        )


def _distiller(runner: Runner) -> Any:
    return getattr(model_of(runner), 'distiller', None)


def _initial_epochs(runner: Runner) -> int:
    return getattr(_distiller(runner), 'initial_epochs', 0)


def _initial_iterations(runner: Runner) -> int:
    epochs = _initial_epochs(runner)
    # a dataset without a length has no epochs either
    return epochs * len(runner.train_dataloader) if epochs else 0
