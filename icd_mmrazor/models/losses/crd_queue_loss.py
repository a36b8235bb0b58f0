"""Contrastive representation distillation (CRD) with a queue."""

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.functional import unit_vectors
from icd_mmrazor.models.losses.gather import gather_rows, weight_of_image
from icd_mmrazor.models.losses.queue_loss import QueueLoss


@MODELS.register_module()
class CRDQueueLoss(QueueLoss):
    """Contrastive representation distillation with a queue, of giakoumoglou/distillers (a2ee80b, March 2025).

    It contrasts as MoCo does (InfoNCE) where CRD (``ContrastiveRepresentationLoss``) estimates a density: the
    student's normalised embedding should be closer to the teacher's embedding of the same image than to those of the
    last ``memory_size`` images. Neither labels nor positions of the images are needed, and images of the same class are
    negatives, too. There are no published results.

    As released, the batch enters the memory before it is compared, so that the positive is also among the negatives,
    and the loss is ``log 2`` at least. Gradients flow to the student, and to the teacher's embedding through the
    positive only. With several processes the memory takes the images of all, so it is the same everywhere, and after
    DDP's averaging the gradients equal those of one process with the whole batch. The memory is saved in checkpoints
    and resumed.

    Args:
        memory_size: Number of images in the memory.
        temperature: Divides the similarities, ``> 0``.
        embed_dims: Width of the embeddings.
        loss_weight: Weight of the loss; the release has 0.8.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(crd=dict(
                loss=dict(type='CRDQueueLoss', loss_weight=0.8),
                features='pooled',
                student_connector=dict(type='LinearProjection'),
                teacher_connector=dict(type='LinearProjection'))))
    """

    def __init__(
        self, memory_size: int = 16384, temperature: float = 0.07, embed_dims: int = 128, loss_weight: float = 1.0
    ) -> None:
        super().__init__(memory_size, embed_dims, loss_weight)
        self.temperature = checks.positive(self, 'temperature', temperature)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Put the teacher's embeddings ``B x embed_dims`` into the memory, and compute the loss of both."""
        student, teacher = unit_vectors(student), unit_vectors(teacher)
        (teachers,), _ = gather_rows(teacher.detach())
        self.enqueue_rows(teachers)
        positives = (student * teacher).sum(dim=1, keepdim=True)
        similarities = torch.cat([positives, student @ self.copied_memory(student.dtype).T], dim=1)
        first = torch.zeros(len(student), dtype=torch.int64, device=student.device)
        loss = F.cross_entropy(similarities / self.temperature, first, reduction='sum')
        return loss * weight_of_image(len(teachers))
