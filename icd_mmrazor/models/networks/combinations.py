"""Combinations of the logits of several teachers."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


class Combination(nn.Module):
    """A rule that makes one teacher's logits of those of several.

    A subclass, registered in ``mmrazor.registry.MODELS``, implements :meth:`combine`. ``model.teacher_combination``
    names it.

    Args:
        weights: Weight of each teacher, at least 0; normalised to a sum of 1.

    Attributes:
        sees_all_images (bool): Whether each teacher runs on all images of a batch. If not, there are no features of
            a single teacher to be compared.

    Raises:
        SettingError: A weight is negative, or all are 0.

    Example of a custom rule, the teacher with the lowest cross-entropy for each image::

        @MODELS.register_module()
        class LowestCrossEntropy(Combination):
            def combine(self, logits, data_samples):
                labels = torch.cat([sample.gt_label for sample in data_samples])
                losses = [F.cross_entropy(each, labels, reduction='none') for each in logits]
                return select(logits, torch.stack(losses).argmin(0))

        model = dict(teacher_combination=dict(type='LowestCrossEntropy'))
    """

    weights: Tensor
    sees_all_images: ClassVar[bool] = True

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        for i, weight in enumerate(weights):
            checks.not_negative('FrozenTeacherDistill', f'teachers[{i}].weight', weight)
        total = sum(weights)
        if total <= 0:
            raise SettingError('FrozenTeacherDistill: the weights of all teachers are 0. Give one of them more.')
        self.register_buffer('weights', torch.tensor([weight / total for weight in weights]), persistent=False)

    def forward(self, logits: Sequence[Tensor], data_samples: list | None = None) -> Tensor:
        """Combine logits, ``B x C`` of each teacher, in at least float32, to one ``B x C``."""
        return self.combine([each if each.dtype is torch.float64 else each.float() for each in logits], data_samples)

    def combine(self, logits: list[Tensor], data_samples: list | None) -> Tensor:
        """Combine logits, ``B x C`` of each teacher, to one ``B x C``.

        Args:
            logits: Those of each teacher, in the order of ``model.teachers``.
            data_samples: Those of the batch, in training; labels are missing for unlabelled images. None for
                mixed images: a rule that reads labels cannot be used in an ``AugmentedDistill``.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Show the weights of the teachers, by which a cache of the combined logits knows them."""
        return 'weights=' + ', '.join(f'{weight:.6g}' for weight in self.weights.tolist())


@MODELS.register_module()
class MeanLogits(Combination):
    """The weighted mean of the logits: a geometric mean of the probabilities, at any temperature.

    Config example::

        model = dict(teacher_combination='mean')
    """

    def combine(self, logits: list[Tensor], data_samples: list | None) -> Tensor:  # noqa: ARG002
        """Return the mean, ``B x C``."""
        return torch.einsum('kbc,k->bc', torch.stack(logits), self.weights.to(logits[0].dtype))


@MODELS.register_module()
class MeanProbabilities(Combination):
    """The logarithm of the weighted mean of the probabilities, which is what an ensemble predicts.

    The mean is that of the probabilities at temperature 1; a loss softens its logarithm like any other logits.

    Config example::

        model = dict(teacher_combination='probabilities')
    """

    def combine(self, logits: list[Tensor], data_samples: list | None) -> Tensor:  # noqa: ARG002
        """Return the logarithms, ``B x C``."""
        log_weights = self.weights.to(logits[0].dtype).log().view(-1, 1, 1)
        return torch.logsumexp(torch.stack(logits).log_softmax(2) + log_weights, 0)


@MODELS.register_module()
class MostConfident(Combination):
    """For each image, the logits of the teacher whose largest probability, times its weight, is the largest.

    Config example::

        model = dict(teacher_combination='confident')
    """

    def combine(self, logits: list[Tensor], data_samples: list | None) -> Tensor:  # noqa: ARG002
        """Return the logits of the chosen teachers, ``B x C``; of the first one among equals."""
        confidence = torch.stack([each.softmax(1).amax(1) for each in logits], 1) * self.weights.to(logits[0].dtype)
        return select(logits, confidence.argmax(1))


@MODELS.register_module()
class ExpertLogits(Combination):
    """The logits of an ``ExpertSelectionDistill``, of one teacher for each image.

    In training they are put together before. Other images have the logits of the last teacher.
    """

    sees_all_images = False

    def combine(self, logits: list[Tensor], data_samples: list | None) -> Tensor:  # noqa: ARG002
        """Return the last of the logits, ``B x C``."""
        return logits[-1]

    def extra_repr(self) -> str:
        """Show the order of the teachers."""
        return 'easy images to the first, hard ones to the last'


def select(logits: Sequence[Tensor], chosen: Tensor) -> Tensor:
    """Return the logits of one teacher for each image.

    Args:
        logits: ``B x C`` of each teacher.
        chosen: The index of a teacher for each image, ``B``.

    Returns:
        ``B x C``.
    """
    return torch.stack(list(logits), 1)[torch.arange(len(chosen), device=chosen.device), chosen]


# the rules that have a short name
COMBINATIONS = {'mean': MeanLogits, 'probabilities': MeanProbabilities, 'confident': MostConfident}
