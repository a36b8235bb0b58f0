"""Hooks, metrics and optimizer wrappers: what happens around a training step."""

from icd_mmrazor.engine import evaluation, former_hooks, hooks, optim_wrappers

__all__ = ['evaluation', 'former_hooks', 'hooks', 'optim_wrappers']
