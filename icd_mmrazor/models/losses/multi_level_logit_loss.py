"""Multi-level logit distillation (MLKD)."""

from collections.abc import Sequence

import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.datasets.samples import number_of_weak_views
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import LogitLoss
from icd_mmrazor.models.losses.functional import full_precision, kd, standardized

NAME = 'MultiLevelLogitLoss'
# besides the setting; the last two of the strong views are those of the weak ones, as released
OF_BOTH_VIEWS, OF_WEAK_VIEWS = (3.0, 5.0), (2.0, 6.0)


@MODELS.register_module()
class MultiLevelLogitLoss(LogitLoss):
    r"""Multi-level logit distillation (MLKD, Jin, Wang and Lin, CVPR 2023), as its authors released it.

    It compares the predictions for single images at five temperatures, their similarities between images and those
    between classes. A batch has two views of each image, a weak one and a strong one (:class:`TwoViewDataset`). With
    ``P`` the probabilities of the weak views, ``B x C``, at a temperature, and ``T = tau, 3, 5, 2, 6``::

        images m    = share of images whose largest probability by the teacher is at most the median over the batch
        classes m_c = share of classes whose summed probability by the teacher is at most the median over the classes

        m   * sum over T of KD(weak, T) + sum over tau, 3, 5 of KD(strong, T) + sum over 2, 6 of KD(weak, T)
        m_c * sum over T of |P_t' P_t - P_s' P_s|^2 / C
        m   * sum over T of |P_t P_t' - P_s P_s'|^2 / B

    This is what the released code computes (Jin-Ying/Multi-Level-Logit-Distillation, 5ee473f), the only source of how
    the published accuracies were made. It differs from what its own names and the paper suggest:

    * the masks of unsure images and classes, ``m`` and ``m_c``, select nothing. Each term is a single number before it
      is multiplied by a mask and averaged, so that they scale it, by about a half;
    * two of the five temperatures of the strong views are those of the weak views again;
    * the similarities between strong views are computed and left out.

    Cross-entropy counts 0.1 for each of the views there. The student's own loss is the mean over both views here, so
    that ``student_loss_weight`` is 0.2.

    The similarities and medians are those of a batch, with several processes of that of a process. A batch of a single
    image still has the first term.

    Args:
        tau: The first temperature. Where it is 2, 3, 5 or 6, that one counts twice.
        standardize: Whether to standardise the logits in the terms ``KD`` (logit standardisation, LSKD), not in the
            similarities, as in sunshangquan/logit-standardization-KD (f6e5aa5), with ``tau=2`` and ``loss_weight=9``.
            The setting of the same name in a ``FeatureDistiller`` would standardise them all.
        loss_weight: Weight of the loss; 0.9 for CIFAR-100, 0.5 for ImageNet.

    Raises:
        SettingError: A setting is out of range, or a batch does not have two views of each image.

    Config example::

        train_dataloader=dict(dataset=dict(type='TwoViewDataset', strong=[...], dataset=dict(...)))
        distiller=dict(
            type='FeatureDistiller',
            student_loss_weight=0.2,
            losses=dict(mlkd=dict(loss=dict(type='MultiLevelLogitLoss', loss_weight=0.9), features='logits')))
    """

    reads_views = True
    reads_positions = False

    def __init__(self, tau: float = 4.0, standardize: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = checks.positive(self, 'tau', tau)
        self.standardize = checks.boolean(self, 'standardize', standardize)

    def forward(self, s_feature: Tensor, t_feature: Tensor, data_samples: Sequence[DataSample] | None = None) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_feature: The student's logits of the weak views of all images, then of the strong ones, ``2B x C``.
            t_feature: The teacher's logits of the same views.
            data_samples: Their data samples with ``augmentation``, one for each view, or one for all.

        Raises:
            SettingError: The logits cannot be compared, or the batch has another form.
        """
        self._check(s_feature, t_feature)
        images = number_of_weak_views([*(data_samples or ())])
        if images is None or 2 * images != len(s_feature):
            raise SettingError(
                f'{NAME} compares a weak and a strong view of each image, and a batch of {len(s_feature)} does not say '
                "that it has both. Set train_dataloader.dataset=dict(type='TwoViewDataset', strong=[...], dataset=...)."
            )
        with full_precision(s_feature, t_feature.detach()) as (student, teacher):
            return self.loss_weight * torch.stack([*self.parts(student, teacher).values()]).sum()

    def parts(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Compute the three terms of logits ``2B x C``, without the weight: ``kd``, ``classes`` and ``images``."""
        weak_s, strong_s = student.chunk(2)
        weak_t, strong_t = teacher.chunk(2)
        temperatures = (self.tau, *OF_BOTH_VIEWS, *OF_WEAK_VIEWS)
        of_weak = {temperature: self._kd(weak_s, weak_t, temperature) for temperature in temperatures}
        of_strong = [self._kd(strong_s, strong_t, temperature) for temperature in (self.tau, *OF_BOTH_VIEWS)]
        probabilities = weak_t.softmax(dim=1)
        unsure_images = share_up_to_median(probabilities.amax(dim=1))
        unsure_classes = share_up_to_median(probabilities.sum(dim=0))
        return {
            'kd': unsure_images * sum(of_weak[each] for each in temperatures)
            + sum(of_strong)
            + sum(of_weak[each] for each in OF_WEAK_VIEWS),
            'classes': unsure_classes * sum(between_classes(weak_s, weak_t, each) for each in temperatures),
            'images': unsure_images * sum(between_images(weak_s, weak_t, each) for each in temperatures),
        }

    def _kd(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        if self.standardize:
            student, teacher = standardized(student), standardized(teacher)
        return kd(student, teacher, temperature)


def between_classes(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute the squared difference of the similarities between classes, over the classes, of logits ``B x C``."""
    return _difference(*((logits / temperature).softmax(dim=1).T for logits in (student, teacher)))


def between_images(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute the squared difference of the similarities between images, over the images, of logits ``B x C``."""
    return _difference(*((logits / temperature).softmax(dim=1) for logits in (student, teacher)))


def _difference(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher @ teacher.T - student @ student.T).square().sum() / len(student)


def share_up_to_median(values: Tensor) -> Tensor:
    """Return the share of values that are at most their median, the mean of the middle two of an even number."""
    ordered = values.sort().values
    low, high = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    # rounded as numpy.percentile(values, 50) is: it never exceeds the larger one
    return (values <= high - (high - low) * 0.5).to(values.dtype).mean()
