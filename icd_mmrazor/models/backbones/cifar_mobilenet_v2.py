"""The MobileNetV2 of the CIFAR experiments."""

from typing import Any

from mmcv.cnn import ConvModule
from mmpretrain.models.backbones import MobileNetV2
from mmpretrain.registry import MODELS
from torch import nn


@MODELS.register_module()
class CIFARMobileNetV2(MobileNetV2):
    """MobileNetV2 (Sandler et al. 2018) for 32 x 32 images, half as wide.

    Differences from the paper and mmpretrain's ``MobileNetV2``, as in the published benchmark: ReLU instead of ReLU6,
    unless ``act_cfg`` is given; the second stage does not stride; widths are not rounded to multiples of 8; the first
    block also starts with a 1 x 1 convolution, which does not widen.

    Args:
        widen_factor: Width relative to the paper. The first and the last convolution are rounded as in mmpretrain.
        **kwargs: Other arguments of mmpretrain's ``MobileNetV2``.

    Config example::

        backbone=dict(type='CIFARMobileNetV2')
    """

    # expansion, width, blocks, stride
    arch_settings = [  # noqa: RUF012 (declared by the base class)
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]

    def __init__(self, widen_factor: float = 0.5, **kwargs: Any) -> None:
        super().__init__(widen_factor, **{'act_cfg': dict(type='ReLU'), **kwargs})

    def make_layer(
        self,
        out_channels: int,  # noqa: ARG002 (mmpretrain passes it by name)
        num_blocks: int,
        stride: int,
        expand_ratio: int,
    ) -> nn.Sequential:
        """Build a stage of the width in ``arch_settings``; other arguments as in mmpretrain."""
        in_channels, width = self.in_channels, self.arch_settings[len(self.layers)][1]
        stage = super().make_layer(int(width * self.widen_factor), num_blocks, stride, expand_ratio)
        if expand_ratio == 1:
            expansion = ConvModule(
                in_channels, in_channels, 1, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg
            )
            stage[0].conv.insert(0, expansion)
        return stage
