"""Comparative knowledge distillation (CKD)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import full_precision

NAME = 'ComparativeLoss'


@MODELS.register_module()
class ComparativeLoss(FeatureLoss):
    r"""Comparative knowledge distillation (CKD, Wilf et al., arXiv 2311.02253, WACV 2025).

    A comparison takes two groups of images: the mean logits of the first minus those of the second. The student's
    differences should be those of the teacher, and those of the labels (one-hot)::

        D(student, teacher) + label_weight * D(student, labels)

    The authors published two forms of ``D`` with their code (alextxu/ckd):

    * ``'mse'``, March 2025 (commit f8cc6bd), for WACV: the mean square over comparisons and classes. Over all disjoint
      groups of ``a`` and ``b`` images of a batch, it is ``1/a + 1/b`` times the unbiased variance of ``student -
      target`` over the images, which is what is computed here. The sizes of the groups are only a factor.
    * ``'kl'``, October 2023 (commit 62ba741), of the first version of the paper: ``tau**2 * KL(softmax(target / tau) ||
      softmax(student / tau))`` of the differences, for the labels too. For ``groups=(1, 1)`` all ordered pairs of the
      batch are compared, which takes ``B x B x C`` numbers. For larger groups, ``B`` comparisons are drawn: a random
      order of the batch, in which each image in turn starts a comparison. An image is in ``a + b`` of them. The authors
      used ``(2, 1)``.

    The authors draw their groups from the whole training set, and pass each group through the student by itself. Their
    training has no cross-entropy: set the distiller's ``student_loss_weight=0``.

    The same vector added to the logits of all images changes nothing. So the bias of the student's classifier gets a
    gradient of 0, and this loss alone does not learn the offsets between classes, which can cost accuracy in a short
    training. With several processes, each compares the images in its batch. A batch of fewer images than a
    comparison has (with ``'mse'``, of one image) gives 0.

    Args:
        distance: ``'mse'`` or ``'kl'``.
        tau: Temperature of ``'kl'``, which divides the differences.
        label_weight: Weight of the labels relative to the teacher, 0 or greater. With 0, labels are not read, and other
            features than logits can be compared.
        groups: Numbers of images in the two groups of a comparison.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            student_loss_weight=0.0,
            losses=dict(ckd=dict(loss=dict(type='ComparativeLoss'), features='logits')))
    """

    compares_images = True
    takes_embeddings = True
    # as many classes
    same_width_by = 'LinearProjection'
    # with the default label_weight
    reads_labels = True
    reads_scores = True
    reads_positions = False

    def __init__(
        self,
        distance: str = 'mse',
        tau: float = 4.0,
        label_weight: float = 1.0,
        groups: Sequence[int] = (1, 1),
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.distance = checks.one_of(self, 'distance', distance, ('mse', 'kl'))
        self.tau = checks.positive(self, 'tau', tau)
        self.label_weight = checks.not_negative(self, 'label_weight', label_weight)
        self.groups = _checked_groups(groups)
        self.reads_labels = label_weight > 0

    def forward(self, s_feature: Tensor, t_feature: Tensor, data_samples: Sequence[DataSample] | None = None) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_feature: The student's logits, ``B x C``.
            t_feature: The teacher's logits of the same images.
            data_samples: Data samples of the images with ``gt_label``, one class each, or ``gt_score``, the scores of a
                mixed image; one for each image, or one for all. Not read if ``label_weight`` is 0.

        Raises:
            SettingError: The logits cannot be compared, or an image has no label.
        """
        self._check(s_feature, t_feature)
        with full_precision(s_feature, t_feature) as (student, teacher):
            targets = [(1.0, teacher)]
            if self.label_weight:
                targets.append((self.label_weight, self._labels(data_samples, student)))
            if len(student) < (2 if self.distance == 'mse' else sum(self.groups)):
                return (0 * student).sum()
            # teacher and labels are compared in the same groups
            order = None if self.groups == (1, 1) else torch.randperm(len(student), device=student.device)
            terms = [weight * self._compared(student, target, order) for weight, target in targets]
            return self.loss_weight * torch.stack(terms).sum()

    def _compared(self, student: Tensor, target: Tensor, order: Tensor | None) -> Tensor:
        if self.distance == 'mse':
            return comparative_mse(student, target, self.groups)
        if order is None:
            return comparative_kl(pair_differences(student), pair_differences(target), self.tau)
        compared, targets = (group_differences(values[order], self.groups) for values in (student, target))
        return comparative_kl(compared, targets, self.tau)

    def _labels(self, data_samples: Any, student: Tensor) -> Tensor:
        """Return the labels of a batch as rows like logits: one-hot, or the scores of mixed images."""
        samples = data_samples if isinstance(data_samples, list | tuple) else []
        images, classes = student.shape
        labels, found = None, 'no labels'
        if samples and all('gt_score' in sample for sample in samples):
            labels = torch.cat([torch.atleast_2d(sample.gt_score) for sample in samples])
            found = f'scores of shape {tuple(labels.shape)}'
        elif samples and all('gt_label' in sample for sample in samples):
            single = torch.cat([sample.gt_label for sample in samples])
            found = f'{len(single)} labels'
            labels = F.one_hot(single, classes) if len(single) == images else None
        if labels is None or labels.shape != student.shape:
            raise SettingError(
                f'{NAME}: label_weight={self.label_weight} compares {images} images by their labels, one of {classes} '
                f'classes each, but their data samples have {found}. Give each image a label, or set label_weight=0.'
            )
        return labels.to(student)


def comparative_mse(student: Tensor, target: Tensor, groups: tuple[int, int] = (1, 1)) -> Tensor:
    """Compute the mean square of CKD's comparisons, over all disjoint groups of a batch and all classes.

    Args:
        student: The student's logits, ``B x C``, of two images or more.
        target: What they are compared with: the teacher's logits, or the labels.
        groups: Numbers of images in the two groups of a comparison. The formula holds for any; together they need not
            be in the batch.
    """
    difference = student - target
    # not torch.var: where the mean overflows, its value may be finite and its gradient not
    variance = (difference - difference.mean(dim=0)).square().sum(dim=0) / (len(difference) - 1)
    return sum(1 / size for size in groups) * variance.mean()


def comparative_kl(student: Tensor, target: Tensor, tau: float = 4.0) -> Tensor:
    """Compute the divergence of CKD, the mean over comparisons.

    Args:
        student: Differences of the student's logits, a row for each comparison.
        target: The differences that they are compared with.
        tau: Temperature, which divides the differences; its square multiplies the loss.
    """
    log_q, log_p = ((values / tau).log_softmax(dim=1) for values in (student, target))
    return tau**2 * F.kl_div(log_q, log_p, reduction='batchmean', log_target=True)


def pair_differences(values: Tensor) -> Tensor:
    """Return the differences of all ordered pairs of a batch ``B x C``, ``B * (B - 1) x C``."""
    images = len(values)
    rows = (values[:, None] - values).flatten(0, 1)
    # all but those of an image with itself, every B + 1 rows from the first on
    return rows[1:].unflatten(0, (images - 1, images + 1))[:, :-1].flatten(0, 1)


def group_differences(values: Tensor, groups: tuple[int, int]) -> Tensor:
    """Return the differences of the groups that start at each image of a batch, which continues with its first image.

    Args:
        values: Rows of the batch in a random order, ``B x C``, as many as both groups have or more.
        groups: Numbers of images in the two groups: the first starts at the image, the second follows it.

    Returns:
        The mean of the first group minus that of the second, ``B x C``.
    """
    a, b = groups
    rolled = [values.roll(-shift, 0) for shift in range(a + b)]
    return torch.stack(rolled[:a]).mean(0) - torch.stack(rolled[a:]).mean(0)


def _checked_groups(groups: Any) -> tuple[int, int]:
    sizes = tuple(groups) if isinstance(groups, list | tuple) else ()
    if len(sizes) != 2 or not all(type(size) is int and size > 0 for size in sizes):
        raise SettingError(
            f'{NAME}: groups={groups!r} must be two positive integers, the numbers of images in the two groups of a '
            'comparison. Published are (1, 1) and (2, 1).'
        )
    return sizes
