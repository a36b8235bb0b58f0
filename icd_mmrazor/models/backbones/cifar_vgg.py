"""The VGG networks of the CIFAR experiments."""

import warnings
from typing import Any

from mmpretrain.models.backbones import VGG
from mmpretrain.registry import MODELS
from torch import nn

from icd_mmrazor import checks


@MODELS.register_module()
class CIFARVGG(VGG):
    """VGG with batch norm for 32 x 32 images (Simonyan & Zisserman 2015), without its first two linear layers.

    Differences from mmpretrain's ``VGG``, as in the published benchmark: depth 8, with one convolution per block; batch
    norm, unless ``norm_cfg`` is given; no pooling after the fourth block, so that the last two work on 4 x 4, and none
    after the fifth, which the classifier's global average pooling follows.

    Args:
        depth: 8, 11, 13, 16 or 19. As in the paper it counts three linear layers; here there is one.
        **kwargs: Other arguments of mmpretrain's ``VGG``.

    Raises:
        SettingError: The depth is not one of these.

    Config example::

        backbone=dict(type='CIFARVGG', depth=8)
    """

    arch_settings = {8: (1, 1, 1, 1, 1), **VGG.arch_settings}  # noqa: RUF012 (declared by the base class)

    def __init__(self, depth: int, **kwargs: Any) -> None:
        checks.one_of('CIFARVGG', 'depth', depth, self.arch_settings)
        with warnings.catch_warnings():
            # the published networks have these biases
            warnings.filterwarnings('ignore', message='Unnecessary conv bias before batch/instance norm')
            super().__init__(depth, **{'norm_cfg': dict(type='BN'), 'with_last_pool': False, **kwargs})
        fourth_pool = self.range_sub_modules[3][1] - 1
        self.features[fourth_pool] = nn.Identity()
