"""The projector of SimKD."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.functional import average_to


@MODELS.register_module()
class SimKDProjector(BaseModule):
    """A neck that turns the map of a student into a map like the teacher's, and averages it (SimKD, arXiv 2203.14001).

    Three convolutions, of 1 x 1, 3 x 3 and 1 x 1, each without bias, followed by a batch norm and a ReLU. As released
    (DefangChen/SimKD), the weights keep torch's initialisation.

    Args:
        in_channels: Channels of the student's map.
        out_channels: Channels of the teacher's.
        factor: What the teacher's channels are divided by, rounded down, for the layers in between; 2 as published.
        size: Height and width of the teacher's map, to which a larger one is averaged first; None: it is kept.
        last_relu: Whether the last layer is a ReLU, as released. Without it, the projection may be negative, as are
            maps of networks that end in another activation or a norm.
        init_cfg: Same as in mmengine's ``BaseModule``.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        neck=dict(type='SimKDProjector', in_channels=64, out_channels=256)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: int = 2,
        size: Sequence[int] | None = None,
        last_relu: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        checks.positive_int(self, 'in_channels', in_channels)
        checks.positive_int(self, 'out_channels', out_channels)
        checks.boolean(self, 'last_relu', last_relu)
        inner = out_channels // checks.positive_int(self, 'factor', factor)
        if inner < 1:
            raise SettingError(
                f'SimKDProjector: factor={factor} leaves none of the {out_channels} channels of the teacher. Give '
                f'{out_channels} or less; 2 is the published one.'
            )
        if size is not None and not (
            isinstance(size, list | tuple) and len(size) == 2 and all(type(each) is int and each > 0 for each in size)
        ):
            raise SettingError(f'SimKDProjector: size={size!r} must be height and width of a map, such as (8, 8).')
        self.size = None if size is None else tuple(size)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True) if last_relu else nn.Identity(),
        )

    def project(self, student: Tensor) -> Tensor:
        """Project the student's map, ``B x C x H x W``, to one like the teacher's."""
        if self.size is not None:
            height, width = (min(pair) for pair in zip(student.shape[2:], self.size, strict=True))
            student = average_to(student, (height, width))
        return self.layers(student)

    def forward(self, features: Tensor | Sequence[Tensor]) -> tuple[Tensor]:
        """Project the last map of a backbone and average it over the positions: one feature, ``B x D``."""
        student = features if isinstance(features, Tensor) else features[-1]
        return (F.adaptive_avg_pool2d(self.project(student), 1).flatten(1),)
