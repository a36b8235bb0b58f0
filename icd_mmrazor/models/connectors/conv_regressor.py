"""The regressor of FitNets, which AB uses too."""

from collections.abc import Sequence

from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from icd_mmrazor import checks

# a kernel for every difference in size would soon have most of the weights
LARGEST_KERNEL = 8


@MODELS.register_module()
class ConvRegressor(BaseConnector):
    """A learned convolution from the student's map to the shape of the teacher's (FitNets, ICLR 2015).

    As in the benchmark, it depends on the sizes of the two maps. If the student's is

    * twice the teacher's: 3 x 3, stride 2, padding 1;
    * half of it: transposed, 4 x 4, stride 2, padding 1;
    * larger by less than 8 pixels: no padding, a kernel of the size that remains (1 x 1 for equal sizes).

    Any other is brought to the teacher's size first, averaged or interpolated, and the kernel is 1 x 1.

    Batch norm follows, and ReLU if wanted. FitNets have the ReLU. AB (activation boundaries, AAAI 2019) compares
    pre-activations: ``relu=False, identity_if_equal=True``.

    Args:
        student_shape, teacher_shape: Shapes of the maps, ``(C, H, W)``.
        relu: Whether ReLU comes last.
        identity_if_equal: Whether a map that has the teacher's shape is returned as it is.
        init_cfg: Same as in mmengine's ``BaseModule``. By default torch's initialisation, as published.

    Raises:
        SettingError: A shape is invalid.

    Config example::

        connectors=dict(student=dict(type='ConvRegressor', student_shape=(16, 8, 8), teacher_shape=(64, 8, 8)))
    """

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        relu: bool = True,
        identity_if_equal: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.student_shape = checks.shape(self, 'student_shape', student_shape)
        self.teacher_shape = checks.shape(self, 'teacher_shape', teacher_shape)
        self.layers = nn.Sequential()
        if not (identity_if_equal and self.student_shape == self.teacher_shape):
            self.layers.append(_convolution(self.student_shape, self.teacher_shape))
            self.layers.append(nn.BatchNorm2d(self.teacher_shape[0]))
            if relu:
                self.layers.append(nn.ReLU(inplace=True))

    def forward_train(self, feature: Tensor) -> Tensor:
        """Bring a map of the student, ``B x student_shape``, to the teacher's shape."""
        checks.feature_map(self, 'student_shape', self.student_shape, feature)
        return self.layers(feature)


def _convolution(student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]) -> nn.Module:
    (s_channels, *s_size), (t_channels, *t_size) = student_shape, teacher_shape
    sizes = list(zip(s_size, t_size, strict=True))
    if all(s == 2 * t for s, t in sizes):
        return nn.Conv2d(s_channels, t_channels, 3, stride=2, padding=1)
    if all(2 * s == t for s, t in sizes):
        return nn.ConvTranspose2d(s_channels, t_channels, 4, stride=2, padding=1)
    if all(t <= s < t + LARGEST_KERNEL for s, t in sizes):
        return nn.Conv2d(s_channels, t_channels, tuple(1 + s - t for s, t in sizes))
    return nn.Sequential(_Resize(t_size), nn.Conv2d(s_channels, t_channels, 1))


class _Resize(nn.Module):
    """Brings maps to a size: larger ones by averages, smaller ones by bilinear interpolation."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def forward(self, feature: Tensor) -> Tensor:
        smaller = tuple(min(s, t) for s, t in zip(feature.shape[2:], self.size, strict=True))
        feature = F.adaptive_avg_pool2d(feature, smaller)
        return F.interpolate(feature, self.size, mode='bilinear')

    def extra_repr(self) -> str:
        return f'size={self.size}'
