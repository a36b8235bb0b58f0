"""Relational representation distillation (RRD) with memories of all images."""

import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.crd_loss import ContrastiveRepresentationLoss


@MODELS.register_module()
class RRDMemoryLoss(ContrastiveRepresentationLoss):
    """Relational representation distillation with the memories of CRD (giakoumoglou/distillers, a2ee80b, March 2025).

    Each image is compared with itself and with ``num_negatives`` images of other classes, as in
    ``ContrastiveRepresentationLoss``, which documents the memories and ``p_j = exp(<u, m_j> / temperature) / Z``. The
    loss is the mean over the batch of the cross-entropy of ``softmax_j(p_j / student_temperature)``, of the student
    against the teacher's memory, with the targets ``softmax_j(p_j / teacher_temperature)``, of the teacher against the
    student's memory. Gradients flow to the student only.

    So the exponential is taken twice, as released. For a memory of 50,000 images and 16,384 negatives, the targets are
    uniform to five digits at first. Once a teacher's embedding has a similarity of 0.9 with the student's memory of its
    image, they are one-hot, at either temperature. There are no published results. ``RRDLoss`` compares similarities.

    Args:
        num_negatives: Number of images of other classes that each image is compared with.
        temperature: Divides the similarities in the exponentials, ``>= 0.02``.
        momentum: Share of a memory that stays when its image is seen, ``0 <= momentum < 1``.
        embed_dims: Width of the embeddings.
        num_samples: Number of training images; by default from ``set_dataset``.
        loss_weight: Weight of the loss.
        student_temperature: Divides the student's ``p_j``, ``> 0``.
        teacher_temperature: Divides the teacher's ``p_j``, ``> 0``.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            frozen=['teacher_embedding'],
            connectors=dict(teacher_embedding=dict(type='LinearProjection')),
            losses=dict(rrd=dict(
                loss=dict(type='RRDMemoryLoss'),
                features='pooled',
                student_connector=dict(type='LinearProjection'),
                teacher_connector='teacher_embedding')))
    """

    def __init__(
        self,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        embed_dims: int = 128,
        num_samples: int | None = None,
        loss_weight: float = 1.0,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.02,
    ) -> None:
        super().__init__(num_negatives, temperature, momentum, embed_dims, num_samples, loss_weight)
        self.student_temperature = checks.positive(self, 'student_temperature', student_temperature)
        self.teacher_temperature = checks.positive(self, 'teacher_temperature', teacher_temperature)

    def forward(
        self, s_feature: Tensor, t_feature: Tensor, data_samples: list[DataSample], negatives: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch, then update the memories; the arguments are those of the base class."""
        loss = super().forward(s_feature, t_feature.detach(), data_samples, negatives)
        # DDP waits for a gradient of every parameter
        return loss + 0.0 * t_feature.sum() if get_world_size() > 1 else loss

    def compare_probabilities(self, p: Tensor, noise: float) -> Tensor:  # noqa: ARG002 (that of CRD needs it)
        """Compute the loss, summed over the images; ``p`` is that of the base class."""
        student, targets = p[0] / self.student_temperature, (p[1] / self.teacher_temperature).softmax(dim=1)
        return F.cross_entropy(student, targets, reduction='sum')
