"""Invariant Consistency Distillation (ICD, now DCD; arXiv 2407.11802) for OpenMMLab's mmrazor.

Importing the package makes the installed stack usable (:func:`icd_mmrazor.compat.prepare`) and registers its modules;
a config needs ``custom_imports = dict(imports=['icd_mmrazor'])`` and nothing else.
"""

from typing import TYPE_CHECKING, Any

from icd_mmrazor import compat

compat.prepare()

from icd_mmrazor import datasets, engine, models, registry  # noqa: E402 (they need the prepared stack)
from icd_mmrazor.version import __version__  # noqa: E402

if TYPE_CHECKING:
    from icd_mmrazor.workflow.distill import distill

__all__ = ['__version__', 'compat', 'datasets', 'distill', 'engine', 'models', 'registry']


def __getattr__(name: str) -> Any:
    """Import :func:`distill` when it is asked for: a config that imports the package does not need it."""
    if name == 'distill':
        from icd_mmrazor.workflow.distill import distill

        return distill
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
