"""Softmax regression representation learning (SRRL)."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import full_precision


@MODELS.register_module()
class SRRLLoss(FeatureLoss):
    """Softmax regression representation learning (SRRL), ICLR 2021.

    The student's feature, through a connector, should have the average of the teacher's, and the teacher's classifier
    should answer as it does for the teacher::

        mse(student, teacher) + logit_weight * mse(classifier(student), classifier(teacher))

    Maps are first averaged over their pixels, so their sizes may differ. The classifier is frozen, but the gradient
    flows through it to the student.

    There are two forms, which differ only in what the connector gets, a :class:`PointwiseRegressor` with ReLU:

    * the authors' (jingyang2017/KD_SRRL, d2e802f): the student's last map, so ReLU and batch norm see each pixel;
    * that of DefangChen/SimKD (2b389c3), which the results on CIFAR-100 were made with: the student's pooled feature.

    Args:
        teacher_classifier: The teacher's linear classifier. A ``FeatureDistiller`` finds it.
        logit_weight: Weight of the second term relative to the first, 0 or greater.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range, or the classifier is not linear or not in memory.

    Config example::

        losses=dict(srrl=dict(
            loss=dict(type='SRRLLoss'),
            features='pooled',
            student_connector=dict(type='PointwiseRegressor', relu=True)))
    """

    takes_embeddings = True
    same_width_by = 'PointwiseRegressor'
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, teacher_classifier: nn.Linear | None, logit_weight: float = 1.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        self.logit_weight = checks.not_negative(self, 'logit_weight', logit_weight)
        if teacher_classifier is None:
            raise SettingError(
                "SRRLLoss: teacher_classifier=None, but it needs the weights of the teacher's classifier. A teacher "
                'whose stored outputs alone are in memory needs its model.teacher_ckpt again. For one of several, set '
                'distiller.teacher_member; for one without a classifier, use another method.'
            )
        if not isinstance(teacher_classifier, nn.Linear):
            raise SettingError(
                f'SRRLLoss: teacher_classifier is a {type(teacher_classifier).__name__}, but it must be linear. Set '
                "distiller.teacher_source to the teacher's linear layer that computes the logits, or use another "
                'method.'
            )
        # copies: the teacher is frozen, and in no checkpoint
        weight, bias = teacher_classifier.weight.detach().clone(), teacher_classifier.bias
        self.register_buffer('weight', weight, persistent=False)
        self.register_buffer('bias', None if bias is None else bias.detach().clone(), persistent=False)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_feature: The student's feature through its connector, ``B x C x H x W`` or ``B x C``.
            t_feature: The teacher's feature, likewise; its mean is the input of the teacher's classifier.

        Raises:
            SettingError: The two cannot be compared, or do not have the width of the classifier.
        """
        student, teacher = _averaged(s_feature), _averaged(t_feature)
        if teacher.ndim == 2 and teacher.shape[1] != self.weight.shape[1]:
            raise SettingError(
                f'SRRLLoss: teacher_classifier takes {self.weight.shape[1]} features, but t_feature is '
                f"{tuple(t_feature.shape)}. Compare the teacher's pooled feature, the input of its classifier."
            )
        return super().forward(student, teacher.detach())

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of vectors ``B x C``."""
        weight, bias = self.weight.to(student.dtype), None if self.bias is None else self.bias.to(student.dtype)
        student_logits, teacher_logits = (F.linear(feature, weight, bias) for feature in (student, teacher))
        return F.mse_loss(student, teacher) + self.logit_weight * F.mse_loss(student_logits, teacher_logits)


def _averaged(feature: Tensor) -> Tensor:
    """Average maps, ``B x C x H x W``, over their pixels, in at least float32."""
    if feature.ndim != 4:
        return feature
    with full_precision(feature) as (maps,):
        return maps.mean((2, 3))
