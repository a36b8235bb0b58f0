"""Relational representation distillation (RRD)."""

import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.functional import unit_vectors
from icd_mmrazor.models.losses.gather import gather_rows, weight_of_image
from icd_mmrazor.models.losses.queue_loss import QueueLoss


@MODELS.register_module()
class RRDLoss(QueueLoss):
    """Relational representation distillation (RRD, Giakoumoglou and Stathaki, arXiv 2407.12073).

    A first-in-first-out memory holds the teacher's normalised embeddings of the last ``memory_size`` images. With ``s``
    and ``t`` the similarities of a student's and a teacher's embedding with all of them, the loss is the mean over the
    batch of the cross-entropy of ``softmax(s / student_temperature)`` with the targets
    ``softmax(t / teacher_temperature)``.

    The authors published two forms with their code (giakoumoglou/distillers), which differ in three settings:

    * July to November 2024 (commits ee559b3 to a6bed43), with the result tables: ``student_temperature=0.04,
      teacher_temperature=0.1, enqueue='after'``. The benchmark's preset, ``configs/_base_/methods/rrd.py``.
    * February 2025 (up to a2ee80b), without results: ``student_temperature=0.1, teacher_temperature=0.02,
      enqueue='before'``. The defaults here, kept so that stored configs keep their meaning.

    Their code of 2025 also has a form with the memories of CRD: ``RRDMemoryLoss``.

    Gradients flow to the student only, as published. With several processes the memory takes the images of all, so it
    is the same everywhere, and after DDP's averaging the gradients equal those of one process with the whole batch. The
    memory is saved in checkpoints and resumed.

    Args:
        memory_size: Number of images in the memory.
        student_temperature: Divides the student's similarities, ``> 0``.
        teacher_temperature: Divides the teacher's similarities, ``> 0``.
        embed_dims: Width of the embeddings.
        loss_weight: Weight of the loss.
        enqueue: When the batch enters the memory: ``'before'`` it is compared, so that each image is also compared with
            itself, or ``'after'``.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(rrd=dict(
                loss=dict(type='RRDLoss'),
                features='pooled',
                student_connector=dict(type='LinearProjection'),
                teacher_connector=dict(type='LinearProjection'))))
    """

    def __init__(
        self,
        memory_size: int = 16384,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.02,
        embed_dims: int = 128,
        loss_weight: float = 1.0,
        enqueue: str = 'before',
    ) -> None:
        super().__init__(memory_size, embed_dims, loss_weight)
        self.student_temperature = checks.positive(self, 'student_temperature', student_temperature)
        self.teacher_temperature = checks.positive(self, 'teacher_temperature', teacher_temperature)
        self.enqueue = checks.one_of(self, 'enqueue', enqueue, ('before', 'after'))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of embeddings ``B x embed_dims``, and put the teacher's into the memory before or after."""
        student, teacher = unit_vectors(student), unit_vectors(teacher)
        (teachers,), _ = gather_rows(teacher.detach())
        if self.enqueue == 'before':
            self.enqueue_rows(teachers)
        memory = self.copied_memory(student.dtype)
        targets = (teacher.detach() @ memory.T / self.teacher_temperature).softmax(dim=1)
        loss = F.cross_entropy(student @ memory.T / self.student_temperature, targets, reduction='sum')
        if self.enqueue == 'after':
            self.enqueue_rows(teachers)
        loss = loss * weight_of_image(len(teachers))
        # DDP waits for a gradient of every parameter
        return loss + 0.0 * teacher.sum() if get_world_size() > 1 else loss
