"""VkD: distillation through an orthogonal projection."""

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import deviations

NORMALIZED = ('images', 'batch')


@MODELS.register_module()
class VkDLoss(FeatureLoss):
    """VkD (Miles et al., CVPR 2024, arXiv 2403.06213): smooth L1 distance after an orthogonal projection.

    The student's feature comes from an :class:`OrthogonalProjection`, which keeps distances between images (if the
    student is not wider), so that it cannot learn in the student's place. The two forms of the release (roymiles/VkD,
    6f8a507):

    * ``normalize='images'``, classification: tokens and maps are averaged over their positions. The teacher's feature
      is normalised for each image (layer norm without scale and shift), the student's is not.
    * ``normalize='batch'``, detection: both are standardised over all tokens of the batch, with the deviation of a
      sample. A unit that is constant, where the release gives NaN, becomes 0; a single token gives 0. With several
      processes, each standardises the images in its batch. The projection has ``affine=True``.

    The distance is the mean over images (or tokens) and units.

    Args:
        normalize: ``'images'`` or ``'batch'``.
        loss_weight: Weight of the loss. The authors use 1 for classification, and 4 for detection.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(vkd=dict(
                loss=dict(type='VkDLoss'),
                features='pooled',
                student_connector=dict(type='OrthogonalProjection'))))
    """

    takes_embeddings = True
    same_width_by = 'OrthogonalProjection'

    def __init__(self, normalize: str = 'images', loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.normalize = checks.one_of(self, 'normalize', normalize, NORMALIZED)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_feature: The student's feature after its projection, ``B x D``, or tokens, ``B x N x D``.
            t_feature: The teacher's feature of the same images, ``B x D``, tokens, or a map, ``B x D x H x W``.

        Raises:
            SettingError: The two cannot be compared.
        """
        if self.normalize == 'images':
            return super().forward(_averaged(s_feature), _averaged(t_feature))
        tokens = [_as_tokens(feature) for feature in (s_feature, t_feature)]
        if len({each.shape[1] for each in tokens if each.ndim == 3}) > 1:
            shapes = f's_feature is {tuple(s_feature.shape)}, t_feature {tuple(t_feature.shape)}'
            raise SettingError(
                f"VkDLoss: normalize='batch' compares token with token, but their numbers differ: {shapes}. Record "
                "maps or tokens of one size, or set normalize='images'."
            )
        return super().forward(*(each.flatten(0, 1) if each.ndim == 3 else each for each in tokens))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of features or tokens, one a row."""
        if self.normalize == 'images':
            return F.smooth_l1_loss(student, F.layer_norm(teacher, teacher.shape[1:]))
        if len(student) == 1:
            return (0 * student).sum()
        student, teacher = (deviations(tokens, correction=1) for tokens in (student, teacher))
        return F.smooth_l1_loss(student, teacher)


def _as_tokens(feature: Tensor) -> Tensor:
    return feature.flatten(2).transpose(1, 2) if feature.ndim == 4 else feature


def _averaged(feature: Tensor) -> Tensor:
    tokens = _as_tokens(feature)
    # not rounded to half precision
    dtype = torch.promote_types(feature.dtype, torch.float32)
    return tokens.mean(dim=1, dtype=dtype) if tokens.ndim == 3 else feature
