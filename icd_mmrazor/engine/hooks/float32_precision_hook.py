"""TF32, for those who want it."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.errors import SettingError


@HOOKS.register_module()
class Float32PrecisionHook(Hook):
    """Say whether a GPU computes float32 in TF32: 10 bits of the mantissa instead of 23, several times as fast.

    Without the hook it is as torch has it: convolutions in TF32, matrix products not. The setting is the process's,
    and lasts for the run. It changes nothing on a GPU without TF32.

    Args:
        tf32: ``True``: matrix products in TF32 too. ``False``: nothing in TF32, not even convolutions.

    Raises:
        SettingError: ``tf32`` is neither.

    Config example::

        custom_hooks=[dict(type='Float32PrecisionHook', tf32=True)]
    """

    def __init__(self, tf32: bool) -> None:
        if not isinstance(tf32, bool):
            raise SettingError(
                f'Float32PrecisionHook: tf32={tf32!r} must be True or False. To leave it as torch has it, remove the '
                'hook.'
            )
        self.tf32 = tf32

    def before_run(self, runner: Runner) -> None:
        """Set the precision."""
        self._before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision('high' if self.tf32 else 'highest')
        torch.backends.cudnn.allow_tf32 = self.tf32

    def after_run(self, runner: Runner) -> None:
        """Restore what was set before the run."""
        products, convolutions = self._before
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
