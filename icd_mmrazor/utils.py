"""Names that other code imports from here."""

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
    """Register everything; mmengine calls it for ``dict(cfg_path='icd_mmrazor::...')``.

    Args:
        init_default_scope: Whether to make ``mmpretrain``, the scope of our configs, the default.
    """
    import mmpretrain.utils

    import icd_mmrazor  # noqa: F401 (its import registers)

    mmpretrain.utils.register_all_modules(init_default_scope)
