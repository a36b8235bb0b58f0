"""The networks of HKD's CIFAR-10 experiments."""

from collections import OrderedDict
from collections.abc import Sequence

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


@MODELS.register_module()
class CIFARPreActResNet(BaseBackbone):
    """ResNet-18 of pre-activation blocks for 32 x 32 images, the teacher of HKD.

    As released (passalis/pkth, commit 5766e63), unlike the paper of such blocks (He et al., ECCV 2016): batch norm and
    ReLU follow the first convolution, neither follows the last block, and a block without a convolution in its shortcut
    adds its *activated* input. All are initialised as torch's. Its last map is to be averaged.

    Args:
        blocks: Number of blocks in each stage. The first stage has 64 channels, each of the others twice as many as the
            one before and half the resolution.
        init_cfg: Same as in mmengine's ``BaseModule``.

    Raises:
        SettingError: A number of blocks is not a positive integer.

    Config example::

        backbone=dict(type='CIFARPreActResNet'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=512, init_cfg=None)
    """

    def __init__(self, blocks: Sequence[int] = (2, 2, 2, 2), init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        channels = 64
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.res_layers: list[str] = []
        in_channels = channels
        for i, number in enumerate(blocks, start=1):
            stage = [_PreActBlock(in_channels, channels, stride=1 if i == 1 else 2)]
            rest = checks.positive_int(self, 'blocks', number) - 1
            stage += [_PreActBlock(channels, channels) for _ in range(rest)]
            self.res_layers.append(f'layer{i}')
            self.add_module(self.res_layers[-1], nn.Sequential(*stage))
            in_channels, channels = channels, 2 * channels

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Compute the last map of images, ``B x 3 x H x W``: a tuple of one, ``B x 512 x H / 8 x W / 8``."""
        maps = self.relu(self.bn1(self.conv1(images)))
        for name in self.res_layers:
            maps = self.get_submodule(name)(maps)
        return (maps,)


class _PreActBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        activated = self.relu(self.bn1(maps))
        return self.conv2(self.relu(self.bn2(self.conv1(activated)))) + self.shortcut(activated)
