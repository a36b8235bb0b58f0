"""The projector of RSD."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@MODELS.register_module()
class RSDProjector(BaseConnector):
    """The student's pooled feature at the teacher's width, in RSD (ICCV 2025, arXiv 2507.21844).

    A linear layer to ``ratio`` times the student's width, batch norm, GELU, and a linear layer to the teacher's width.
    The linear layers have no biases, and weights from a truncated normal distribution with deviation 0.02. A batch of
    one image is normalised with the running statistics. It is computed in the precision of its weights.

    Args:
        student_shape, teacher_shape: Shapes of the pooled features, ``(C,)``.
        ratio: Hidden width over that of the student; ``gamma`` of the release (VISION-SJTU/RSD, be825ae).
        init_cfg: Same as in mmengine's ``BaseModule``. By default the published initialisation.

    Raises:
        SettingError: A shape or the ratio is invalid.

    Config example::

        connectors=dict(student=dict(type='RSDProjector', student_shape=(64,), teacher_shape=(256,)))
    """

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        ratio: int = 2,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        (self.in_features,) = checks.shape(self, 'student_shape', student_shape, dims=(1,))
        (width,) = checks.shape(self, 'teacher_shape', teacher_shape, dims=(1,))
        hidden = checks.positive_int(self, 'ratio', ratio) * self.in_features
        self.layers = nn.Sequential(
            nn.Linear(self.in_features, hidden, bias=False),
            _BatchNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, width, bias=False),
        )
        for layer in (self.layers[0], self.layers[3]):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward_train(self, feature: Tensor) -> Tensor:
        """Project features ``B x C`` to the teacher's width."""
        if feature.ndim != 2 or feature.shape[1] != self.in_features:
            raise SettingError(
                f'RSDProjector(student_shape={(self.in_features,)}) got a feature of shape {tuple(feature.shape)}. '
                'Record a pooled feature, images x width (the input of the classifier).'
            )
        with torch.autocast(feature.device.type, enabled=False):
            return self.layers(feature.to(self.layers[0].weight.dtype))


class _BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes a single image in training, too: it has no statistics of its own."""

    def forward(self, feature: Tensor) -> Tensor:
        if len(feature) > 1:
            return super().forward(feature)
        return F.batch_norm(feature, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
