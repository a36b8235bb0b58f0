"""Optimizer wrappers. They register in mmengine's registry, so that configs of every scope find them."""

from icd_mmrazor.engine.optim_wrappers.autocast_optim_wrapper import AutocastOptimWrapper

__all__ = ['AutocastOptimWrapper']
