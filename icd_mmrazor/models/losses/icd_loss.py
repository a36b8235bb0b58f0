"""Invariant Consistency Distillation (ICD)."""

import math

import torch
from mmengine.dist import get_world_size
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import icd, unit_vectors
from icd_mmrazor.models.losses.gather import gather_rows


@MODELS.register_module()
class ICDLoss(FeatureLoss):
    """Invariant Consistency Distillation (ICD), arXiv 2407.11802, which its authors call DCD since November 2024.

    With ``u_i`` and ``v_i`` the normalised embeddings of the student's and the teacher's feature of image ``i``, and
    ``Z_ij = tau <u_i, v_j> + bias`` their similarities over a batch::

        p_i = softmax_j Z_ij                   student i over the teachers
        q_i = softmax_j Z_ji                   teacher i over the students
        contrastive = mean_i -log p_i[i]
        invariance = mean_i KL(q_i || p_i)     gradients flow through both
        loss = contrastive_weight * contrastive + alpha * invariance

    The temperature ``tau = min(exp(log_tau), max_tau)`` multiplies and, as published, is learned. So is ``bias``, which
    has no effect (a softmax ignores a constant, so its gradient is zero); the published method has it. An embedding of
    0 is similar to none and gets no gradient; a NaN or an infinity makes the loss NaN.

    Args:
        alpha: Weight of the invariance term, ``>= 0``.
        max_tau: Upper limit of the temperature, ``> 0``.
        init_log_tau: Initial logarithm of the temperature.
        init_bias: Initial bias.
        loss_weight: Weight of the whole loss.
        gather_distributed: Whether the images of all processes are each other's negatives. Each process then compares
            its own images with those of all, and after DDP's averaging the gradients equal those of one process with
            the whole batch, even if the last batches differ in size. Otherwise each process uses its own images.
        contrastive_weight: Weight of the contrastive term, ``>= 0``; one of the two weights must be positive.
        learn_tau: Whether the temperature is learned; otherwise it stays ``min(exp(init_log_tau), max_tau)``.

    Raises:
        SettingError: A setting is out of range, or both weights are 0.

    Attributes:
        terms (dict[str, Tensor]): ``contrastive``, ``invariance`` (not multiplied by ``alpha``; absent at ``alpha=0``)
            and ``tau`` of the last forward pass, detached, for the log.

    Example::

        icd, embed_s, embed_t = ICDLoss(), nn.Linear(64, 128), nn.Linear(256, 128)
        loss = F.cross_entropy(logits, labels) + icd(embed_s(s_feature), embed_t(t_feature))

    Config example, with the projections (docs/howto/own_configs.md has mmrazor's ``ConfigurableDistiller``)::

        distiller=dict(type='ICDDistiller', icd=dict(type='ICDLoss', alpha=0.5))
    """

    takes_embeddings = True
    same_width_by = 'LinearProjection'
    compares_images = True
    shown_if_changed = ('gather_distributed', 'contrastive_weight', 'learn_tau')

    def __init__(
        self,
        alpha: float = 0.5,
        max_tau: float = 10.0,
        init_log_tau: float = 1.0,
        init_bias: float = 0.0,
        loss_weight: float = 1.0,
        gather_distributed: bool = False,
        contrastive_weight: float = 1.0,
        learn_tau: bool = True,
    ) -> None:
        super().__init__(loss_weight)
        self.alpha = checks.not_negative(self, 'alpha', alpha)
        self.max_tau = checks.positive(self, 'max_tau', max_tau)
        self.gather_distributed = checks.boolean(self, 'gather_distributed', gather_distributed)
        self.contrastive_weight = checks.not_negative(self, 'contrastive_weight', contrastive_weight)
        self.learn_tau = checks.boolean(self, 'learn_tau', learn_tau)
        if alpha == contrastive_weight == 0:
            raise SettingError(
                f'ICDLoss: contrastive_weight={contrastive_weight} and alpha={alpha} leave no loss. Make one positive.'
            )
        log_tau = torch.tensor(float(checks.finite(self, 'init_log_tau', init_log_tau)))
        self.log_tau = nn.Parameter(log_tau, requires_grad=learn_tau)
        self.bias = nn.Parameter(torch.tensor(float(checks.finite(self, 'init_bias', init_bias))))
        self.terms: dict[str, Tensor] = {}

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of embeddings ``B x E``; a batch of one image has no negatives and gives 0."""
        student, teacher = unit_vectors(student), unit_vectors(teacher)
        # the inner limit lies above the outer one, so that an exp that overflows has the gradient 0, not 0 * inf
        tau = self.log_tau.clamp(max=1 + math.log(self.max_tau)).exp().clamp(max=self.max_tau)
        if self.gather_distributed and get_world_size() > 1:
            (students, teachers), first = gather_rows(student, teacher)
            contrastive, invariance = icd(student, teacher, tau, self.bias, students, teachers, first)
            # DDP averages over ranks; this makes it the mean over images, however many each rank has
            scale = get_world_size() / len(students)
        else:
            contrastive, invariance = icd(student, teacher, tau, self.bias)
            scale = 1 / len(student)
        loss = self.contrastive_weight * (scale * contrastive)
        self.terms = {'contrastive': scale * contrastive.detach(), 'tau': tau.detach()}
        if self.alpha:
            loss = loss + self.alpha * (scale * invariance)
            self.terms['invariance'] = scale * invariance.detach()
        return loss
