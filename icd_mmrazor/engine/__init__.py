"""Hooks and optimizer wrappers: what happens around a training step."""

from icd_mmrazor.engine import former_hooks, hooks, optim_wrappers

__all__ = ['former_hooks', 'hooks', 'optim_wrappers']
