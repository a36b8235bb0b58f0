"""Relational representation distillation."""

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.memories import MemoryLoss, of_all_ranks
from icd_mmrazor.models.losses.unit_vectors import unit_vectors


@MODELS.register_module()
class RRDLoss(MemoryLoss):
    """Relational representation distillation (RRD, Giakoumoglou and Stathaki, arXiv 2407.12073).

    A first-in-first-out memory holds the normalised embeddings of the teacher of the last ``memory_size`` images. With
    ``s`` and ``t`` the similarities of a student's and a teacher's embedding with all of them, the loss is the
    cross-entropy of ``softmax(s / student_temperature)`` under the targets ``softmax(t / teacher_temperature)``, in the
    mean over the batch.

    The authors published two forms with their code (giakoumoglou/distillers), which differ in three settings:

    * July to November 2024 (commits ee559b3 to a6bed43), with the result tables: ``student_temperature=0.04,
      teacher_temperature=0.1, enqueue='after'``. The benchmark's preset, ``configs/_base_/methods/rrd.py``.
    * February 2025 (to a2ee80b), without results: ``student_temperature=0.1, teacher_temperature=0.02,
      enqueue='before'``. The defaults here, which they were before the preset named its settings.

    Gradients flow to the student only. The teacher's embedding stays as it was initialised, as published; in several
    processes it gets gradients of zero, because DDP waits for one of every parameter (weight decay then shortens the
    embedding, which the normalisation undoes).

    With several processes the memory takes the images of all, so it is the same everywhere, and after DDP's averaging
    the gradients equal those of one process with the whole batch. The loss is computed in float32 at least, also
    under autocast. The memory is saved with a checkpoint and resumed.

    Args:
        memory_size: How many images the memory holds.
        student_temperature: Divides the student's similarities, ``> 0``.
        teacher_temperature: Divides the teacher's similarities, ``> 0``.
        embed_dims: Width of the embeddings.
        loss_weight: Weight of the whole.
        enqueue: When the batch enters the memory: ``'before'`` it is compared, so that each image is among those it is
            compared with, or ``'after'``.

    Raises:
        SettingError: A setting is out of range.

    Config example, in mmrazor's plain ``ConfigurableDistiller``::

        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(feature=dict(type='ModuleInputs', source='head.fc')),
            teacher_recorders=dict(feature=dict(type='ModuleInputs', source='head.fc')),
            connectors=dict(
                student=dict(type='LinearProjection', in_features=64),
                teacher=dict(type='LinearProjection', in_features=256)),
            distill_losses=dict(loss_rrd=dict(type='RRDLoss')),
            loss_forward_mappings=dict(loss_rrd=dict(
                s_feature=dict(recorder='feature', from_student=True, data_idx=0, connector='student'),
                t_feature=dict(recorder='feature', from_student=False, data_idx=0, connector='teacher'))))
    """

    memory: Tensor
    oldest: Tensor

    def __init__(
        self,
        memory_size: int = 16384,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.02,
        embed_dims: int = 128,
        loss_weight: float = 1.0,
        enqueue: str = 'before',
    ) -> None:
        super().__init__(embed_dims, loss_weight)
        if enqueue not in ('before', 'after'):
            raise SettingError(f"RRDLoss: enqueue={enqueue!r} must be 'before' or 'after'.")
        self.enqueue = enqueue
        self.memory_size = self._count('memory_size', memory_size)
        self.student_temperature = self._positive('student_temperature', student_temperature)
        self.teacher_temperature = self._positive('teacher_temperature', teacher_temperature)
        # columns of length 1, not rows, as published: until it is full, the memory's unused rows are short
        self.register_buffer('memory', F.normalize(torch.randn(memory_size, embed_dims), dim=0))
        self.register_buffer('oldest', torch.zeros((), dtype=torch.int64))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss, and put the teacher's embeddings of a batch into the memory before or after it.

        Args:
            student: Embeddings of the student's features, ``B x embed_dims``; need not be normalised.
            teacher: Embeddings of the teacher's features of the same images, ``B x embed_dims``.

        Returns:
            A scalar.
        """
        student, teacher = unit_vectors(student), unit_vectors(teacher)
        (teachers,) = of_all_ranks(teacher)
        if self.enqueue == 'before':
            self._enqueue(teachers)
        # a copy: the next batch writes into the memory, and may come before this one's backward pass
        memory = self.memory.to(student.dtype, copy=True)
        targets = (teacher.detach() @ memory.T / self.teacher_temperature).softmax(dim=1)
        loss = F.cross_entropy(student @ memory.T / self.student_temperature, targets, reduction='sum')
        if self.enqueue == 'after':
            self._enqueue(teachers)
        # DDP takes the mean over ranks; the mean over images is wanted, however many a rank has
        loss = loss * get_world_size() / len(teachers)
        return loss + 0.0 * teacher.sum() if get_world_size() > 1 else loss

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor) -> None:
        """Write over the oldest rows."""
        rows = (self.oldest + torch.arange(len(embeddings), device=embeddings.device)) % self.memory_size
        # of a batch larger than the memory the last images stay
        kept = slice(-self.memory_size, None)
        self.memory.index_copy_(0, rows[kept], embeddings[kept].to(self.memory.dtype))
        self.oldest.copy_((self.oldest + len(embeddings)) % self.memory_size)

    def extra_repr(self) -> str:
        """Show the settings in the printed model and in the report at the start of a run."""
        return (
            f'memory_size={self.memory_size}, student_temperature={self.student_temperature}, '
            f'teacher_temperature={self.teacher_temperature}, embed_dims={self.embed_dims}, '
            f'loss_weight={self.loss_weight}, enqueue={self.enqueue!r}'
        )
