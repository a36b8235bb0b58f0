"""Invariant Consistency Distillation (ICD, now DCD; arXiv 2407.11802) for OpenMMLab's mmrazor.

Importing the package makes the installed stack usable (:func:`icd_mmrazor.compat.prepare`) and registers its modules;
a config needs ``custom_imports = dict(imports=['icd_mmrazor'])`` and nothing else.
"""

from icd_mmrazor import compat

compat.prepare()

from icd_mmrazor import datasets, engine, models, registry  # noqa: E402 (they need the prepared stack)
from icd_mmrazor.version import __version__  # noqa: E402

__all__ = ['__version__', 'compat', 'datasets', 'engine', 'models', 'registry']
