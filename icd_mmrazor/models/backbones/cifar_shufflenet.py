"""The ShuffleNets of the CIFAR experiments."""

from typing import Any

import torch
from mmcv.cnn import ConvModule, build_activation_layer
from mmengine.model import BaseModule
from mmpretrain.models.backbones import ShuffleNetV1, ShuffleNetV2
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual
from mmpretrain.models.utils import channel_shuffle
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError


class CIFARStem(BaseModule):
    """A ShuffleNet of mmpretrain with a 1 x 1 first convolution, no pooling after it, and torch's initialisation."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv1 = ConvModule(3, self.conv1.out_channels, 1, **self._layer_cfgs)
        self.maxpool = nn.Identity()

    @property
    def _layer_cfgs(self) -> dict[str, Any]:
        return dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says, or as torch does without one."""
        # mmcv's ConvModule and mmpretrain's networks have their own initialisation
        BaseModule.init_weights(self)
        if not self.init_cfg:
            for module in self.modules():
                if hasattr(module, 'reset_parameters'):
                    module.reset_parameters()


@MODELS.register_module()
class CIFARShuffleNetV1(CIFARStem, ShuffleNetV1):
    """ShuffleNet (Zhang et al. 2018) for 32 x 32 images.

    Differences from mmpretrain's ``ShuffleNetV1``, as in the published benchmark: the first convolution is 1 x 1, with
    neither stride nor pooling; the units are :class:`CIFARShuffleUnit`; weights have torch's initialisation.

    Args:
        **kwargs: Arguments of mmpretrain's ``ShuffleNetV1``. ``with_cp`` has no effect.

    Config example::

        backbone=dict(type='CIFARShuffleNetV1', groups=3)
    """

    def make_layer(self, out_channels: int, num_blocks: int, first_block: bool = False) -> nn.Sequential:
        """Build a stage as mmpretrain does, of :class:`CIFARShuffleUnit`."""
        units = []
        for i in range(num_blocks):
            units.append(
                CIFARShuffleUnit(
                    self.in_channels,
                    out_channels,
                    stride=2 if i == 0 else 1,
                    groups=self.groups,
                    first_groups=1 if first_block and i == 0 else self.groups,
                    **self._layer_cfgs,
                )
            )
            self.in_channels = out_channels
        return nn.Sequential(*units)


class CIFARShuffleUnit(nn.Module):
    """A unit of ShuffleNet.

    Differences from the paper and mmpretrain's ``ShuffleUnit``, as in the published benchmark: channels are shuffled
    before the depthwise convolution, not after it; an activation follows that convolution; with a stride the
    bottleneck is a quarter of the new channels, not of all, and these come before the pooled ones.

    ``groups`` are those of the last 1 x 1 convolution, ``first_groups`` of the first; ``cfgs`` are mmcv's ``conv_cfg``,
    ``norm_cfg`` and ``act_cfg``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, groups: int, first_groups: int, **cfgs: Any
    ) -> None:
        super().__init__()
        self.stride = stride
        self.first_groups = first_groups
        new_channels = out_channels - in_channels if stride == 2 else out_channels
        width = new_channels // 4
        self.conv1 = ConvModule(in_channels, width, 1, groups=first_groups, **cfgs)
        self.conv2 = ConvModule(width, width, 3, stride=stride, padding=1, groups=width, **cfgs)
        self.conv3 = ConvModule(width, new_channels, 1, groups=groups, **{**cfgs, 'act_cfg': None})
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else nn.Identity()
        self.act = build_activation_layer(cfgs['act_cfg'])

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of ``B x C x H x W``, as large or half as large."""
        out = self.conv3(self.conv2(channel_shuffle(self.conv1(x), self.first_groups)))
        shortcut = self.shortcut(x)
        return self.act(torch.cat((out, shortcut), dim=1) if self.stride == 2 else out + shortcut)


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
