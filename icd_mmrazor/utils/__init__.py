"""Helpers: checkpoints, errors, several processes, the tools' common part."""

from icd_mmrazor.datasets.samples import positions_of, sample_indices
from icd_mmrazor.errors import CheckpointError, DatasetError, NonFiniteLossError, SettingError, UserError

__all__ = [
    'CheckpointError',
    'DatasetError',
    'NonFiniteLossError',
    'SettingError',
    'UserError',
    'positions_of',
    'register_all_modules',
    'sample_indices',
]


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register everything; mmengine calls it for ``dict(cfg_path='icd_mmrazor::...')``, as of every such package.

    Args:
        init_default_scope: Whether to make ``mmpretrain`` the default scope, the one of our configs.
    """
    import mmpretrain.utils

    import icd_mmrazor  # noqa: F401 (its import registers)

    mmpretrain.utils.register_all_modules(init_default_scope)
