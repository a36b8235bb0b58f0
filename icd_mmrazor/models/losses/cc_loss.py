"""Correlation congruence (CC)."""

from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import FeatureLoss


@MODELS.register_module()
class CCLoss(FeatureLoss):
    """Correlation congruence (CC), ICCV 2019, arXiv 1904.01802, in the form of the benchmark.

    With ``d_i`` the absolute differences between the embeddings of student and teacher of image ``i``, it is the mean
    of ``<d_i, d_{i+1}>`` over neighbours in the batch. Published on the pooled features, both through a learned
    ``LinearProjection`` of width 128, with weight 0.02. Arguments and errors are those of :class:`FeatureLoss`.

    Config example::

        distill_losses=dict(loss_cc=dict(type='CCLoss', loss_weight=0.02))
    """

    compares_images = True
    same_width_by = 'LinearProjection'

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of embeddings ``B x E``; a batch of one image has no neighbours and gives 0."""
        differences = (student - teacher).abs()
        return (differences[:-1] * differences[1:]).sum() / max(len(student) - 1, 1)
