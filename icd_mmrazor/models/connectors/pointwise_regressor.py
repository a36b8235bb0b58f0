"""The 1 x 1 convolution with batch norm between two widths."""

import math
from collections.abc import Sequence

from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from icd_mmrazor import checks


@MODELS.register_module()
class PointwiseRegressor(BaseConnector):
    """A learned 1 x 1 convolution of the student's feature to the teacher's width, without a bias, then batch norm.

    ReLU follows if wanted. Maps keep their size. A vector, ``B x C``, is taken for a map of one pixel. Differences from
    :class:`ConvRegressor`: no bias, and the kernel does not depend on the sizes.

    Args:
        student_shape, teacher_shape: Shapes of the features, ``(C, H, W)`` or ``(C,)``; only the widths count.
        relu: Whether ReLU comes last.
        initialization: Of the convolution: ``'torch'``, torch's own, or ``'fan_out'``, normal with the variance ``2 /
            C_teacher``.
        init_cfg: Same as in mmengine's ``BaseModule``.

    Raises:
        SettingError: A shape or a setting is invalid.

    Config example::

        student_connector=dict(type='PointwiseRegressor', relu=True, initialization='fan_out')
    """

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        relu: bool = False,
        initialization: str = 'torch',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels, *_ = checks.shape(self, 'student_shape', student_shape, dims=(1, 3))
        width, *_ = checks.shape(self, 'teacher_shape', teacher_shape, dims=(1, 3))
        checks.boolean(self, 'relu', relu)
        convolution = nn.Conv2d(self.in_channels, width, 1, bias=False)
        if checks.one_of(self, 'initialization', initialization, ('torch', 'fan_out')) == 'fan_out':
            nn.init.normal_(convolution.weight, std=math.sqrt(2 / width))
        self.layers = nn.Sequential(convolution, nn.BatchNorm2d(width))
        if relu:
            self.layers.append(nn.ReLU(inplace=True))

    def forward_train(self, feature: Tensor) -> Tensor:
        """Bring a feature of the student, ``B x C_student (x H x W)``, to the teacher's width."""
        vectors = feature.ndim == 2
        feature = feature[:, :, None, None] if vectors else feature
        checks.feature_map(self, 'student_shape', (self.in_channels,), feature)
        convolution, norm, *activation = self.layers
        out = convolution(feature)
        if out.numel() == norm.num_features:
            # a single vector, such as the last batch of an epoch, has no statistics of its own
            out = F.batch_norm(out, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            out = norm(out)
        out = activation[0](out) if activation else out
        return out.flatten(1) if vectors else out
