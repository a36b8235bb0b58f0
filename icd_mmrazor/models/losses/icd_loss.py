"""Invariant Consistency Distillation."""

import math

import torch
import torch.nn.functional as F
from mmengine.dist import get_rank, get_world_size
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.gather import batch_sizes, gather_rows
from icd_mmrazor.models.losses.unit_vectors import unit_vectors


@MODELS.register_module()
class ICDLoss(nn.Module):
    """Invariant Consistency Distillation (ICD), arXiv 2407.11802, which its authors call DCD since November 2024.

    With ``u_i`` and ``v_i`` the normalised embeddings of the student's and the teacher's feature of image ``i``, and
    ``Z_ij = tau <u_i, v_j> + bias`` their similarities over a batch:

    * contrastive term: ``mean_i -log softmax_j(Z_ij)[i]`` pulls a student's feature to its teacher's and away from
      those of the other images (the negatives);
    * invariance term: ``mean_i KL(q_i || p_i)`` makes the two views of the similarity agree: ``p_i`` is student
      ``i`` over the teachers (softmax over ``j`` of ``Z_ij``), ``q_i`` teacher ``i`` over the students (softmax over
      ``j`` of ``Z_ji``); gradients flow through both;
    * loss: ``contrastive_weight * contrastive + alpha * invariance``, with the published weights 1 and 0.5.

    The temperature ``tau = min(exp(log_tau), max_tau)`` multiplies and, as published, is learned. So is ``bias``,
    which cannot change anything (a softmax ignores a constant, its gradient is zero); it is there because the
    published method has it.

    The loss is computed in float32 at least, also under autocast. An embedding of 0 has no direction: it is similar to
    none and gets no gradient. A NaN or an infinity in a feature makes the loss NaN.

    Args:
        alpha: Weight of the invariance term, ``>= 0``. At 0 the term is not computed.
        contrastive_weight: Weight of the contrastive term, ``>= 0``; one of both weights is more than 0.
        max_tau: Upper limit of the temperature, ``> 0``.
        init_log_tau: Initial logarithm of the temperature.
        learn_tau: Whether the temperature is learned; otherwise it stays ``min(exp(init_log_tau), max_tau)``.
        init_bias: Initial bias.
        loss_weight: Weight of the whole.
        gather_distributed: Whether the images of all processes are each other's negatives. Then each process compares
            its own images with those of all, and after DDP's averaging the gradients equal those of one process with
            the whole batch, also where the last batches differ in size. Otherwise each process uses its own images.

    Raises:
        SettingError: A weight, ``max_tau`` or a start value is out of range, both weights are 0, or ``learn_tau`` is no
            bool.

    Attributes:
        terms (dict[str, Tensor]): ``contrastive``, ``invariance`` (not multiplied by ``alpha``; absent at ``alpha=0``)
            and ``tau`` of the last forward pass, detached, for the log.

    Example, in mmrazor's plain ``ConfigurableDistiller``::

        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(feature=dict(type='ModuleInputs', source='head.fc')),
            teacher_recorders=dict(feature=dict(type='ModuleInputs', source='head.fc')),
            connectors=dict(
                student=dict(type='LinearProjection', in_features=64),
                teacher=dict(type='LinearProjection', in_features=256)),
            distill_losses=dict(loss_icd=dict(type='ICDLoss')),
            loss_forward_mappings=dict(loss_icd=dict(
                s_feature=dict(recorder='feature', from_student=True, data_idx=0, connector='student'),
                t_feature=dict(recorder='feature', from_student=False, data_idx=0, connector='teacher'))))

    :class:`ICDDistiller` writes all that from two lines.
    """

    compares_images = True

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
        super().__init__()
        settings = dict(
            alpha=alpha,
            max_tau=max_tau,
            init_log_tau=init_log_tau,
            init_bias=init_bias,
            loss_weight=loss_weight,
            contrastive_weight=contrastive_weight,
        )
        for name, value in settings.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise SettingError(f'ICDLoss: {name}={value!r} must be a finite number.')
        if alpha < 0:
            raise SettingError(f'ICDLoss: alpha={alpha}, the weight of the invariance term, must be 0 or more.')
        if contrastive_weight < 0:
            raise SettingError(f'ICDLoss: contrastive_weight={contrastive_weight} must be 0 or more.')
        if alpha == contrastive_weight == 0:
            raise SettingError('ICDLoss: alpha=0 and contrastive_weight=0 leave no loss. Give one of them a weight.')
        if not isinstance(learn_tau, bool):
            raise SettingError(f'ICDLoss: learn_tau={learn_tau!r} must be True or False.')
        if max_tau <= 0:
            raise SettingError(f'ICDLoss: max_tau={max_tau}, the limit of the temperature, must be more than 0.')
        self.alpha = alpha
        self.contrastive_weight = contrastive_weight
        self.max_tau = max_tau
        self.loss_weight = loss_weight
        self.gather_distributed = gather_distributed
        self.log_tau = nn.Parameter(torch.tensor(float(init_log_tau)), requires_grad=learn_tau)
        self.bias = nn.Parameter(torch.tensor(float(init_bias)))
        self.terms: dict[str, Tensor] = {}

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            s_feature: Embeddings of the student's features, ``B x E``; need not be normalised.
            t_feature: Embeddings of the teacher's features of the same images, ``B x E``.

        Returns:
            The loss, a scalar. A batch of one image has no negatives and gives 0.

        Raises:
            SettingError: The two are not matrices of the same shape, or are empty.
        """
        self._check(s_feature, t_feature)
        dtype = torch.promote_types(torch.promote_types(s_feature.dtype, t_feature.dtype), torch.float32)
        with torch.autocast(s_feature.device.type, enabled=False):
            student = unit_vectors(s_feature.to(dtype))
            teacher = unit_vectors(t_feature.to(dtype))
            # the inner limit is beyond the outer one: there the gradient is 0, not the 0 x inf of an exp that overflows
            tau = self.log_tau.clamp(max=1 + math.log(self.max_tau)).exp().clamp(max=self.max_tau)

            if self.gather_distributed and get_world_size() > 1:
                sizes = batch_sizes(len(student), student.device)
                similarities = tau * student @ gather_rows(teacher, sizes).T + self.bias
                transposed = tau * teacher @ gather_rows(student, sizes).T + self.bias
                first = sum(sizes[: get_rank()])
                # DDP takes the mean over ranks; the mean over images is wanted, however many a rank has
                scale = len(sizes) / sum(sizes)
            else:
                similarities = tau * student @ teacher.T + self.bias
                transposed, first, scale = similarities.T, 0, 1 / len(student)

            log_p = similarities.log_softmax(dim=1)
            contrastive = -scale * log_p.diagonal(first).sum()
            loss = self.contrastive_weight * contrastive
            self.terms = {'contrastive': contrastive.detach(), 'tau': tau.detach()}
            if self.alpha:
                log_q = transposed.log_softmax(dim=1)
                invariance = scale * F.kl_div(log_p, log_q, reduction='sum', log_target=True)
                loss = loss + self.alpha * invariance
                self.terms['invariance'] = invariance.detach()
            return self.loss_weight * loss

    @staticmethod
    def _check(s_feature: Tensor, t_feature: Tensor) -> None:
        shapes = f's_feature is {tuple(s_feature.shape)}, t_feature {tuple(t_feature.shape)}'
        if s_feature.ndim != 2 or t_feature.ndim != 2 or 0 in s_feature.shape:
            raise SettingError(
                f'ICDLoss takes two matrices, images x embedding: {shapes}. '
                'Record pooled features (the input of the classifier) and project them with LinearProjection.'
            )
        if s_feature.shape[0] != t_feature.shape[0]:
            raise SettingError(f'ICDLoss compares features of the same images, the batch sizes differ: {shapes}.')
        if s_feature.shape[1] != t_feature.shape[1]:
            raise SettingError(
                f'ICDLoss compares embeddings of one width, the widths differ: {shapes}. '
                'Give both LinearProjection connectors the same out_features.'
            )

    def extra_repr(self) -> str:
        """Show the settings in the printed model and in the report at the start of a run."""
        settings = dict(alpha=self.alpha, max_tau=self.max_tau, loss_weight=self.loss_weight)
        other = dict(
            gather_distributed=(self.gather_distributed, False),
            contrastive_weight=(self.contrastive_weight, 1),
            learn_tau=(self.log_tau.requires_grad, True),
        )
        settings.update({name: value for name, (value, default) in other.items() if value != default})
        return ', '.join(f'{name}={value}' for name, value in settings.items())
