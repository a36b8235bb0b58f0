"""Hooks, metrics, optimizer wrappers and schedules: what happens around a training step."""

from icd_mmrazor.engine import (
    evaluation,
    former_hooks,
    hooks,
    optim_wrappers,
    retrieval_metrics,
    retrieval_precision,
    schedulers,
)

__all__ = [
    'evaluation',
    'former_hooks',
    'hooks',
    'optim_wrappers',
    'retrieval_metrics',
    'retrieval_precision',
    'schedulers',
]
