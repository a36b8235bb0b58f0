"""Information theoretic representation distillation (ITRD)."""

import math
from collections.abc import Sequence

from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import deviations, unit_vectors


@MODELS.register_module()
class ITRDLoss(FeatureLoss):
    r"""Information theoretic representation distillation (ITRD, Miles et al., BMVC 2022, arXiv 2112.00459).

    A linear layer, which the loss has, brings the student's pooled feature to the teacher's width ``D``. With both
    standardised over the ``B`` images of a batch (deviation of a sample), and ``c_k`` the correlation of the student's
    and the teacher's unit ``k``, and with the matrices ``G`` of the cosines between the images of a batch, divided by
    their traces::

        correlation = log2 sum_k |c_k - 1| ** (2 * alpha)
        mutual = sum G_s ** 2 - sum G_st ** 2         G_st: the elementwise product of both
        loss = correlation_weight * correlation + mutual_weight * mutual

    As released (roymiles/ITRD, 5d08c6b), ``c_k`` is a sum over the images divided by ``B``, though the deviations have
    ``B - 1``, so that it reaches ``1 - 1 / B`` at most; and ``G_s`` is that of the student's own feature if it has the
    teacher's width, otherwise that of the projected one.

    A unit that is constant in a batch, where the release gives NaN, counts as uncorrelated. A batch of one image gives
    0. With several processes, each compares the images in its batch.

    Args:
        student_shape, teacher_shape: Shapes of the pooled features, ``(C,)``. A ``FeatureDistiller`` finds them.
        alpha: Half the exponent. The authors use 1.01 for networks of one family, 1.5 for those of two, which is
            also the default of their parser.
        correlation_weight: Weight of the first term, 0 or greater; ``lambda_corr`` of the release.
        mutual_weight: Weight of the second term, 0 or greater; ``lambda_mutual``, 1 in the authors' commands and 0.05
            in their parser.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(itrd=dict(loss=dict(type='ITRDLoss', alpha=1.5), features='pooled')))
    """

    takes_embeddings = True
    compares_images = True

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        alpha: float = 1.01,
        correlation_weight: float = 2.0,
        mutual_weight: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        (student_width,) = checks.shape(self, 'student_shape', student_shape, dims=(1,))
        (teacher_width,) = checks.shape(self, 'teacher_shape', teacher_shape, dims=(1,))
        self.alpha = checks.positive(self, 'alpha', alpha)
        self.correlation_weight = checks.not_negative(self, 'correlation_weight', correlation_weight)
        self.mutual_weight = checks.not_negative(self, 'mutual_weight', mutual_weight)
        self.embed = nn.Linear(student_width, teacher_width)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of features ``B x D_s`` and ``B x D_t``."""
        projected = self.embed(student)
        if len(student) == 1:
            return (0 * projected).sum()
        compared = student if student.shape[1] == teacher.shape[1] else projected
        correlation = self.correlation_weight * correlation_loss(projected, teacher, self.alpha)
        return correlation + self.mutual_weight * mutual_loss(compared, teacher)

    def _check(self, s_feature: Tensor, t_feature: Tensor) -> None:
        super()._check(s_feature, t_feature)
        widths = self.embed.in_features, self.embed.out_features
        for name, feature, width in zip(('student', 'teacher'), (s_feature, t_feature), widths, strict=True):
            if feature.shape[1] != width:
                raise SettingError(
                    f"ITRDLoss: {name}_shape={(width,)}, but the {name}'s feature is {tuple(feature.shape)}. Set "
                    f'{name}_shape to ({feature.shape[1]},).'
                )


def correlation_loss(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """Compute the first term of ITRD for features ``B x D``, of two images at least."""
    student, teacher = (deviations(feature, correction=1) for feature in (student, teacher))
    return ((student * teacher).mean(dim=0) - 1).abs().pow(2 * alpha).sum().log() / math.log(2)


def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the second term of ITRD for features ``B x D_s`` and ``B x D_t``."""
    student, teacher = unit_vectors(student), unit_vectors(teacher)
    of_student = student @ student.T
    # the cosines of images with themselves are 1, so both traces are the number of images
    both = of_student * (teacher @ teacher.T)
    return (of_student.square() - both.square()).sum() / len(student) ** 2
