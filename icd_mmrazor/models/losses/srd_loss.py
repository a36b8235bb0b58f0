"""A simple recipe for distillation (SRD)."""

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import deviations

COMPARED = ('features', 'correlations')


@MODELS.register_module()
class SRDLoss(FeatureLoss):
    """Simple recipe distillation (SRD, Miles and Mikolajczyk, AAAI 2024, arXiv 2303.11098).

    The student's feature, projected to the teacher's width by a linear layer, and the teacher's feature are normalised
    over the batch (batch norm without scale and shift). With ``z`` the results, the loss is one of::

        log(sum_bk |z_s - z_t| ** 4 + log_eps)          compares='features'
        log(sum_k |mean_b z_s z_t - 1| ** 4 + log_eps)  compares='correlations'

    The authors published three forms with their code (roymiles/Simple-Recipe-Distillation):

    * since February 2024 (up to 31e8477), with the result of the README: ``compares='features'``, weight 2, together
      with KD at temperature 1. The benchmark's preset, ``configs/_base_/methods/srd.py``.
    * up to 8 February 2024 (dc7667f): ``compares='correlations'``, weight 2, without KD.
    * DeiT: ``compares='correlations', bn_eps=0.0, log_eps=1e-5``, weight 1, with KD at temperature 1 on the
      distillation token.

    The first two have no ``log_eps``, and give minus infinity at perfect agreement; the default matters only near it.
    With ``bn_eps=0``, which torch's batch norm refuses, a unit that is constant in a batch counts as uncorrelated.
    Nothing reads the running statistics that the release's batch norms keep, so there are none here. The sum over
    images adds a constant for a larger batch, which has no gradient. A batch of one image gives 0. With several
    processes, each compares the images in its batch.

    Args:
        compares: ``'features'`` or ``'correlations'``.
        bn_eps: Added to the variances of the batch norms, 0 or greater.
        log_eps: Added to the sum before its logarithm, ``> 0``.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(srd=dict(
                loss=dict(type='SRDLoss', loss_weight=2.0),
                features='pooled',
                student_connector=dict(type='LinearProjection', out_features=None))))
    """

    takes_embeddings = True
    same_width_by = 'LinearProjection(out_features=None)'
    compares_images = True

    def __init__(
        self, compares: str = 'features', bn_eps: float = 1e-4, log_eps: float = 1e-12, loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        self.compares = checks.one_of(self, 'compares', compares, COMPARED)
        self.bn_eps = checks.not_negative(self, 'bn_eps', bn_eps)
        self.log_eps = checks.positive(self, 'log_eps', log_eps)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of features ``B x D``, the student's after its projection."""
        if len(student) == 1:
            return (0 * student).sum()
        student, teacher = self._normalised(student), self._normalised(teacher)
        by_feature = self.compares == 'features'
        errors = student - teacher if by_feature else (student * teacher).mean(dim=0) - 1
        return torch.log(errors.square().square().sum() + self.log_eps)

    def _normalised(self, feature: Tensor) -> Tensor:
        if self.bn_eps:
            return F.batch_norm(feature, None, None, training=True, eps=self.bn_eps)
        return deviations(feature)
