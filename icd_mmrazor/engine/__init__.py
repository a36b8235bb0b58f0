"""Hooks, optimizer wrappers and schedules: what happens around a training step."""

from icd_mmrazor.engine import former_hooks, hooks, optim_wrappers, schedulers

__all__ = ['former_hooks', 'hooks', 'optim_wrappers', 'schedulers']
