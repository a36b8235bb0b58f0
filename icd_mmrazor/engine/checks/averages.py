"""Averaged weights against what a run validates."""

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from icd_mmrazor.engine.runs import hooks_of
from icd_mmrazor.errors import SettingError


class AverageCheck(Hook):
    """Refuse a run that validates other weights than it keeps.

    With an ``EMAHook``, checkpoints and exported students hold the averaged weights. mmpretrain's hook can validate
    those of the optimizer instead, and the best checkpoint would be one that was never validated.

    Raises:
        SettingError: ``evaluate_on_ema`` is off.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the hooks that average."""
        for hook in hooks_of(runner, EMAHook):
            if not getattr(hook, 'evaluate_on_ema', True):
                raise SettingError(
                    'EMAHook: evaluate_on_ema=False validates the weights of the optimizer, but checkpoints and the '
                    'exported student hold the averaged ones. Set evaluate_on_ema=True (and evaluate_on_origin=True to '
                    'see both), or remove the EMAHook.'
                )
