"""SimKD's loss between maps."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import FeatureLoss


@MODELS.register_module()
class SimKDLoss(FeatureLoss):
    r"""Mean squared error between a student's projected map and the map that the teacher classifies (SimKD).

    *Knowledge Distillation with the Reused Teacher Classifier* (Chen et al., CVPR 2022, arXiv 2203.14001)::

        mean((projected - teacher) ** 2)

    over images, channels and positions, as released (DefangChen/SimKD, commit 2b389c3). Maps of different sizes are
    averaged to the smaller one; a larger map of the student is averaged before the projector
    (:class:`icd_mmrazor.models.connectors.simkd_projector.SimKDProjector`). Images are not compared with each other.

    Args:
        loss_weight: Weight of the loss.

    Config example, which :class:`icd_mmrazor.models.distillers.simkd_distiller.SimKDDistiller` stands for::

        losses=dict(simkd=dict(loss=dict(type='SimKDLoss'), features='classified_map'))
    """

    takes_maps = True
    same_width_by = 'SimKDProjector'

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of two maps, ``B x C x H x W``; the teacher's gets no gradient."""
        return F.mse_loss(student, teacher.detach())
