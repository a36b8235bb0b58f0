"""The regressor of VID."""

from collections.abc import Sequence

from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks


@MODELS.register_module()
class VIDRegressor(BaseConnector):
    """The mean of the teacher's map given the student's, in VID (CVPR 2019, arXiv 1904.05835).

    Three 1 x 1 convolutions of the teacher's width, without biases, with ReLU between them. A student's map that is
    larger than the teacher's is first averaged to its size.

    Args:
        student_shape, teacher_shape: Shapes of the maps, ``(C, H, W)``.
        init_cfg: Same as in mmengine's ``BaseModule``. By default torch's initialisation, as published.

    Config example::

        connectors=dict(student=dict(type='VIDRegressor', student_shape=(16, 8, 8), teacher_shape=(64, 8, 8)))
    """

    def __init__(
        self, student_shape: Sequence[int], teacher_shape: Sequence[int], init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels, *s_size = checks.shape(self, 'student_shape', student_shape)
        width, *t_size = checks.shape(self, 'teacher_shape', teacher_shape)
        size = [min(s, t) for s, t in zip(s_size, t_size, strict=True)]
        self.pool = nn.Identity() if size == s_size else nn.AdaptiveAvgPool2d(size)
        self.layers = nn.Sequential(
            nn.Conv2d(self.in_channels, width, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1, bias=False),
        )

    def forward_train(self, feature: Tensor) -> Tensor:
        """Predict the teacher's map from the student's, ``B x C x H x W``."""
        checks.feature_map(self, 'student_shape', (self.in_channels,), feature)
        return self.layers(self.pool(feature))
