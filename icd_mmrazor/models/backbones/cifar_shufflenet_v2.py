"""The ShuffleNetV2 of the CIFAR experiments."""

from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmpretrain.models.backbones import ShuffleNetV2
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual
from mmpretrain.models.utils import channel_shuffle
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.backbones.cifar_stem import CIFARStem


@MODELS.register_module()
class CIFARShuffleNetV2(CIFARStem, ShuffleNetV2):
    """ShuffleNetV2 (Ma et al. 2018) for 32 x 32 images.

    Differences from mmpretrain's ``ShuffleNetV2``, as in the published benchmark: the first convolution is 1 x 1, with
    neither stride nor pooling; weights have torch's initialisation. The last unit of a stage lets its pre-activation be
    recorded (:class:`LastUnit`).

    Args:
        **kwargs: Arguments of mmpretrain's ``ShuffleNetV2``. ``act_cfg`` must be a ReLU; ``with_cp`` has no effect on
            the last unit of a stage.

    Raises:
        SettingError: The activation is not a ReLU.

    Config example::

        backbone=dict(type='CIFARShuffleNetV2')
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if type_name(self.act_cfg['type']) != 'ReLU':
            raise SettingError(
                f"CIFARShuffleNetV2: act_cfg={self.act_cfg} must be dict(type='ReLU'): the last unit of a stage "
                'applies it twice to half of the channels.'
            )

    def _make_layer(self, out_channels: int, num_blocks: int) -> nn.Sequential:
        stage = super()._make_layer(out_channels, num_blocks)
        stage[-1] = LastUnit(out_channels, **self._layer_cfgs)
        return stage


class LastUnit(InvertedResidual):
    """A unit whose last activation is one module for all channels, so that its input can be recorded.

    The half of the channels that the unit passes on comes from activations, where a second ReLU changes nothing: output
    and gradients are those of the base class.
    """

    def __init__(self, channels: int, **cfgs: Any) -> None:
        super().__init__(channels, channels, **cfgs)
        self.branch2[-1] = ConvModule(channels // 2, channels // 2, 1, **{**cfgs, 'act_cfg': None})
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of ``B x C x H x W``, which must not be negative."""
        passed, changed = x.chunk(2, dim=1)
        return channel_shuffle(self.act(torch.cat((passed, self.branch2(changed)), dim=1)), 2)
