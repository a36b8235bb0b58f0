"""The orthogonal projection of VkD."""

from collections.abc import Sequence

import torch
from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@MODELS.register_module()
class OrthogonalProjection(BaseConnector):
    """A learned projection to the teacher's width with orthonormal columns, or rows if that is smaller (VkD).

    It is torch's ``orthogonal`` parametrisation of a linear layer without a bias, as released (roymiles/VkD, 6f8a507),
    with the same names in checkpoints, and computed in the precision of its weights. One thing differs. Unless the
    projection is square, torch reads a sign of each column from the diagonal of ``original``, as an integer: after one
    step with weight decay, -0.9999 becomes 0, and so does the whole projection. Here the signs stay, so that
    any optimizer with any weight decay keeps it orthogonal. Its angles are decayed, towards the initial projection, as
    in the release.

    Args:
        student_shape: Shape of the student's feature, ``(C,)``, or ``(N, C)`` for tokens.
        teacher_shape: Shape of the teacher's, or ``(C, H, W)``.
        affine: Whether a learned scale and shift of each unit follow, as in the release for detection.
        init_cfg: Same as in mmengine's ``BaseModule``. By default the orthogonal part of torch's initialisation, as
            published.

    Raises:
        SettingError: A shape is invalid.

    Config example::

        connectors=dict(student=dict(type='OrthogonalProjection', student_shape=(64,), teacher_shape=(256,)))
    """

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        affine: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        *_, self.in_features = checks.shape(self, 'student_shape', student_shape, dims=(1, 2))
        shape = checks.shape(self, 'teacher_shape', teacher_shape, dims=(1, 2, 3))
        width = shape[1] if len(shape) == 2 else shape[0]
        self.linear = orthogonal(nn.Linear(self.in_features, width, bias=False))
        self.linear.parametrizations.weight[0].register_forward_pre_hook(_keep_signs)
        if checks.boolean(self, 'affine', affine):
            self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.affine = affine

    def forward_train(self, feature: Tensor) -> Tensor:
        """Project features ``B x C``, or tokens ``B x N x C``, to the teacher's width."""
        if feature.ndim not in (2, 3) or feature.shape[-1] != self.in_features:
            raise SettingError(
                f'OrthogonalProjection(student_shape={(self.in_features,)}) got a feature of shape '
                f'{tuple(feature.shape)}. Record a pooled feature, or tokens of that width (patch_tokens).'
            )
        with torch.autocast(feature.device.type, enabled=False):
            weight = self.linear.weight
            projected = feature.to(weight.dtype) @ weight.T
            return projected * self.scale + self.shift if self.affine else projected


def _keep_signs(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Give torch's parametrisation the diagonal that ``original`` starts with; nothing else changes it but decay."""
    (original,) = args
    return (original.diagonal_scatter(original.new_full((min(original.shape),), -1.0)),)
