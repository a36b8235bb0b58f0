"""The small convolutional networks of HKD's CIFAR-10 experiments."""

from collections import OrderedDict

from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@MODELS.register_module()
class CIFARConvNet(BaseBackbone):
    """Three convolutions and a linear layer: CNN-1 and CNN-1-A of HKD (CVPR 2020, arXiv 2005.00727).

    As released (passalis/pkth, commit 5766e63): three blocks of a 3 x 3 convolution without padding, batch norm, ReLU
    and 2 x 2 max pooling, then a linear layer with ReLU, whose output is classified. All are initialised as torch's.
    ``map1`` to ``map3`` are the outputs of the blocks, ``map0`` is that of the first one before its pooling.

    Args:
        width: Channels of the first convolution; twice as many in each of the next two and in the linear layer, whose
            output has ``8 * width``. 8 in CNN-1, 16 in CNN-1-A.
        image_size: Height and width of the images, at least 22, on which the linear layer depends.
        in_channels: Channels of the images.
        init_cfg: Same as in mmengine's ``BaseModule``.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        backbone=dict(type='CIFARConvNet', width=8),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64, init_cfg=None)
    """

    def __init__(
        self, width: int = 8, image_size: int = 32, in_channels: int = 3, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.width = checks.positive_int(self, 'width', width)
        self.image_size = side = checks.positive_int(self, 'image_size', image_size)
        channels = [checks.positive_int(self, 'in_channels', in_channels), width, 2 * width, 4 * width]
        for _ in range(3):
            side = (side - 2) // 2
        if side < 1:
            raise SettingError(f'CIFARConvNet: image_size={image_size} must be at least 22: nothing is padded.')
        self.stage1, self.stage2, self.stage3 = map(_stage, channels, channels[1:])
        self.fc = nn.Linear(channels[-1] * side * side, 8 * width)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Compute the feature of images, ``B x C x H x W``: a tuple of one, ``B x 8 width``."""
        maps = self.stage3(self.stage2(self.stage1(images)))
        return (self.relu(self.fc(maps.flatten(1))),)


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    layers = {
        'conv': nn.Conv2d(in_channels, out_channels, 3),
        'bn': nn.BatchNorm2d(out_channels),
        'relu': nn.ReLU(),
        'pool': nn.MaxPool2d(2),
    }
    return nn.Sequential(OrderedDict(layers))
