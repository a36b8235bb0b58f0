"""The ResNets of the CIFAR experiments."""

from typing import Any

from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.registry import MODELS

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@MODELS.register_module()
class CIFARResNet(ResNet_CIFAR):
    """Three-stage ResNet of depth ``6n + 2`` for 32 x 32 images (He et al. 2015, section 4.2).

    mmpretrain's ``ResNet_CIFAR`` is the four-stage ImageNet network with a small stem; this is the thin one of
    distillation benchmarks. Differences from the paper, as in the published benchmark: projection shortcuts, and no
    zero initialisation of the last batch norm of a block.

    Args:
        depth: ``6n + 2``: 8, 14, 20, 32, 44, 56, 110, ...
        stem_channels: Width of the first convolution; 32 in ResNet-8x4 and -32x4.
        base_channels: Width of the first stage, doubled in each of the next two; 64 in ResNet-8x4 and -32x4.
        **kwargs: Other arguments of mmpretrain's ``ResNet``.

    Raises:
        SettingError: The depth is not ``6n + 2``.

    Config example::

        backbone=dict(type='CIFARResNet', depth=20)
    """

    def __init__(self, depth: int, stem_channels: int = 16, base_channels: int = 16, **kwargs: Any) -> None:
        blocks, rest = divmod(checks.positive_int('CIFARResNet', 'depth', depth) - 2, 6)
        if rest or blocks < 1:
            raise SettingError(f'CIFARResNet: depth={depth} must be 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...')
        self.arch_settings = {depth: (BasicBlock, (blocks,) * 3)}
        three_stages = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
        super().__init__(
            depth,
            stem_channels=stem_channels,
            base_channels=base_channels,
            **{**three_stages, 'zero_init_residual': False, **kwargs},
        )
