"""The batch norms before the last activations of stages."""

import re

from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from icd_mmrazor.models.networks.points import Point


def norm_before_activation(network: nn.Module, point: Point) -> nn.Module | None:
    """Return the batch norm whose output is activated at the end of a stage.

    Of a residual block it is the last one in its branch: the shortcut is added before the activation.

    Args:
        network: The network.
        point: The place of the stage's pre-activation.

    Returns:
        The norm, or None if no batch norm comes before the activation, or no activation after the stage.
    """
    modules = dict(network.named_modules())
    found = modules[point.source]
    if point.type == 'ModuleInputs':  # of an activation; the norm is in the same block
        found = _last_norm(modules[point.source.rpartition('.')[0]])
    return found if isinstance(found, _BatchNorm) else None


def _last_norm(block: nn.Module) -> nn.Module | None:
    if isinstance(block, ConvModule):
        return block.norm if block.with_norm else None
    # mmpretrain's residual blocks say what their norms are called
    names = sorted(name for name in vars(block) if re.fullmatch(r'norm\d_name', name))
    return getattr(block, getattr(block, names[-1])) if names else None
