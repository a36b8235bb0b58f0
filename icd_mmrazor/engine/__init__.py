"""What happens around the training loop."""

from icd_mmrazor.engine import hooks, optim_wrappers

__all__ = ['hooks', 'optim_wrappers']
