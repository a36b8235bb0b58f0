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

    As released (roymiles/VkD, 6f8a507), it has the values and gradients of torch's ``orthogonal`` parametrisation of a
    linear layer without a bias: ``base``, the orthogonal part of torch's initialisation, times the exponential of a
    skew matrix, or times a product of reflections unless the projection is square. The lower triangle of ``original``
    holds the skew matrix or the reflections; torch's weights can be loaded.

    Two things differ. torch reads a sign of each column from the diagonal of ``original``, as an integer: after one
    step with weight decay, -0.9999 becomes 0, and so does the whole projection. Here nothing reads the diagonal, so
    that the projection stays orthogonal whatever decays it. (Decay turns it towards ``base``, as in the release.) And
    the product of reflections is computed by matrix products, because torch's backward pass takes them one by one.

    It is computed in the precision of its parameters.

    Args:
        student_shape: Shape of the student's feature, ``(C,)``, or ``(N, C)`` for tokens.
        teacher_shape: Shape of the teacher's, or ``(C, H, W)``.
        affine: Whether a learned scale and shift of each unit follow, as in the release for detection.
        init_cfg: Same as in mmengine's ``BaseModule``.

    Raises:
        SettingError: A shape is invalid.

    Config example::

        connectors=dict(student=dict(type='OrthogonalProjection', student_shape=(64,), teacher_shape=(256,)))
    """

    base: Tensor

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
        initial = orthogonal(nn.Linear(self.in_features, width, bias=False)).parametrizations.weight[0].base
        self.register_buffer('base', initial.detach().clone())
        self.original = nn.Parameter(torch.zeros(width, self.in_features))
        if checks.boolean(self, 'affine', affine):
            self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.affine = affine

    @property
    def weight(self) -> Tensor:
        """The projection, ``C_teacher x C_student``."""
        wide = self.original.shape[0] < self.original.shape[1]
        lower = (self.original.T if wide else self.original).tril(-1)
        height, width = lower.shape
        turned = torch.matrix_exp(lower - lower.T) if height == width else _reflected(lower)
        weight = self.base @ turned
        return weight.T if wide else weight

    def forward_train(self, feature: Tensor) -> Tensor:
        """Project features ``B x C``, or tokens ``B x N x C``, to the teacher's width."""
        if feature.ndim not in (2, 3) or feature.shape[-1] != self.in_features:
            raise SettingError(
                f'OrthogonalProjection(student_shape={(self.in_features,)}) got a feature of shape '
                f'{tuple(feature.shape)}. Record a pooled feature, or tokens of that width (patch_tokens).'
            )
        with torch.autocast(feature.device.type, enabled=False):
            projected = feature.to(self.original.dtype) @ self.weight.T
            return projected * self.scale + self.shift if self.affine else projected


def _reflected(lower: Tensor) -> Tensor:
    """Return the first columns of a product of reflections, negated: the identity for ``lower`` of 0.

    The reflections ``I - 2 v v^T / v^T v`` have ``v`` in the columns of the identity plus ``lower``, and their product
    is ``I - V U^-1 V^T``. ``U`` is the upper triangle of ``V^T V``, with half its diagonal (UT transform).
    """
    height, width = lower.shape
    identity = torch.eye(height, width, dtype=lower.dtype, device=lower.device)
    vectors = lower + identity
    products = vectors.T @ vectors
    upper = products.triu(1) + (products.diagonal() / 2).diag()
    return vectors @ torch.linalg.solve_triangular(upper, vectors[:width].T, upper=True) - identity
