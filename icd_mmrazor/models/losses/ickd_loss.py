"""Inter-channel correlation (ICKD)."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import full_precision, unit_vectors


@MODELS.register_module()
class ICKDLoss(FeatureLoss):
    """Inter-channel correlation for knowledge distillation (ICKD), ICCV 2021, arXiv 2202.03680.

    The correlations of a channel with all channels of its map are their inner products over the pixels, a row of ``F
    F^T``, normalised to length 1. The loss is the squared distance of the student's rows from the teacher's, averaged
    over the channels and images. Sizes of the maps may differ. A channel that is zero has the row zero.

    As released (ADLab-AutoDrive/ICKD, 403b8d3), on the last maps, the student's through a :class:`PointwiseRegressor`,
    even if it has the teacher's width. Its code for ImageNet (``ChSimLoss``) divides by the batch size once more.
    Arguments and errors are those of :class:`FeatureLoss`.

    Config example::

        losses=dict(ickd=dict(
            loss=dict(type='ICKDLoss', loss_weight=2.5),
            features='last_map',
            student_connector=dict(type='PointwiseRegressor')))
    """

    takes_maps = True
    same_width_by = 'PointwiseRegressor'

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_feature: The student's map, ``B x C x H x W``, through its connector.
            t_feature: The teacher's map of the same images, of any size.

        Raises:
            SettingError: One is not a map, or batch sizes or widths differ.
        """
        self._check(s_feature, t_feature)
        # not averaged to one size: the correlations are sums over the pixels
        with full_precision(s_feature, t_feature.detach()) as (student, teacher):
            return self.loss_weight * self.compare(student, teacher)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss without its weight, a scalar, of maps ``B x C x H x W`` of any sizes."""
        images, channels = student.shape[:2]
        return (_correlations(student) - _correlations(teacher)).square().sum() / (images * channels)


def _correlations(feature: Tensor) -> Tensor:
    """Return the normalised correlations of the channels of a map, ``B x C x C``."""
    rows = feature.flatten(2)
    return unit_vectors(torch.bmm(rows, rows.mT), dim=2)
