"""Base classes of the losses that compare many features of both networks at once."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import full_precision

Shapes = Sequence[Sequence[int]]
MAP, VECTOR = 3, 1


class FeatureListLoss(FeatureLoss):
    """Loss between a list of features of the student and one of the teacher, the shallowest first.

    A subclass implements :meth:`compare` and ``check_shapes``. Before ``compare`` is called, the features are checked
    and cast to at least float32 (autocast is off inside); the teacher's get no gradient.

    Args:
        loss_weight: Weight of the loss.
    """

    def forward(self, s_features: Sequence[Tensor], t_features: Sequence[Tensor]) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_features: The student's features, ``B x C x H x W`` or ``B x C``.
            t_features: The teacher's features of the same images.

        Raises:
            SettingError: They cannot be compared, or are of different images.
        """
        return self._checked_loss(s_features, t_features)

    def _checked_loss(self, s_features: Sequence[Tensor], t_features: Sequence[Tensor], **given: Any) -> Tensor:
        """Compute the loss; ``given`` are further arguments of ``compare``."""
        self.check_shapes(*([tuple(each.shape[1:]) for each in features] for features in (s_features, t_features)))
        numbers = [[len(each) for each in features] for features in (s_features, t_features)]
        if len({*numbers[0], *numbers[1]}) > 1 or 0 in numbers[0]:
            problem = 'there are none' if {*numbers[0], *numbers[1]} == {0} else 'the batch sizes differ'
            raise SettingError(
                f'{type(self).__name__} compares features of the same images, {problem}: s_features have {numbers[0]}, '
                f't_features {numbers[1]}.'
            )
        with full_precision(*s_features, *(feature.detach() for feature in t_features)) as features:
            return self._compared(features[: len(s_features)], features[len(s_features) :], **given)

    def _compared(self, students: list[Tensor], teachers: list[Tensor], **given: Any) -> Tensor:
        return self.loss_weight * self.compare(students, teachers, **given)

    def check_shapes(self, s_features: Shapes, t_features: Shapes) -> None:
        """Refuse features that cannot be compared, given their shapes without the batch.

        Raises:
            SettingError: They are not what the loss takes.
        """
        raise NotImplementedError

    def compare(self, students: list[Tensor], teachers: list[Tensor], **given: Any) -> Tensor:
        """Compute the loss without its weight, a scalar, of features ``B x C x H x W``, the last perhaps ``B x C``."""
        raise NotImplementedError


class ShapedListLoss(FeatureListLoss):
    """Loss between lists of features that is built for their shapes.

    A subclass implements :meth:`compare`, and owns what it learns. The lists may differ in length, features in size.

    The layers of these losses end in batch norms, whose statistics are those of the process unless ``sync_bn`` is set.
    A training batch of one image has none: for it the loss is 0.

    Args:
        student_shapes: Shapes of the student's features, ``C x H x W`` or ``C``. A ``FeatureDistiller`` gives them.
        teacher_shapes: Shapes of the teacher's features.
        loss_weight: Weight of the loss.

    Attributes:
        takes_pooled (bool): Whether the last feature may be a pooled one, ``C``; the others are maps.

    Raises:
        SettingError: A shape is not that of such a feature.
    """

    takes_maps = True
    compares_images = True
    takes_pooled: ClassVar[bool] = False

    def __init__(self, student_shapes: Shapes, teacher_shapes: Shapes, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self._student_shapes = self._checked('student_shapes', student_shapes)
        self._teacher_shapes = self._checked('teacher_shapes', teacher_shapes)

    def _checked(self, setting: str, shapes: Shapes) -> tuple[tuple[int, ...], ...]:
        dims = (MAP, VECTOR) if self.takes_pooled else (MAP,)
        several = isinstance(shapes, Sequence) and not isinstance(shapes, str)
        checked = tuple(checks.shape(self, setting, shape, dims) for shape in shapes) if several else ()
        if not checked or any(len(shape) == VECTOR for shape in checked[:-1]):
            pooled = ', and a pooled feature only in the end' if self.takes_pooled else ''
            raise SettingError(
                f'{type(self).__name__}: {setting}={shapes} must be those of one or more maps{pooled}. Name such '
                "features in a list, as in feature=['maps']."
            )
        return checked

    def _compared(self, students: list[Tensor], teachers: list[Tensor], **given: Any) -> Tensor:
        if self.training and len(students[0]) == 1:
            # DDP waits for a gradient of every parameter
            return 0.0 * torch.stack([tensor.sum() for tensor in (*students, *teachers, *self.parameters())]).sum()
        return super()._compared(students, teachers, **given)

    def check_shapes(self, s_features: Shapes, t_features: Shapes) -> None:
        """Refuse features of another number or width than those that the loss was built for; the sizes may differ.

        Raises:
            SettingError: They are others.
        """
        of_networks = (
            ('s_features', s_features, self._student_shapes),
            ('t_features', t_features, self._teacher_shapes),
        )
        for name, found, shapes in of_networks:
            fits = len(found) == len(shapes) and all(
                len(got) == len(want) and got[0] == want[0] and 0 not in got
                for got, want in zip(found, shapes, strict=True)
            )
            if not fits:
                raise SettingError(
                    f'{type(self).__name__} was built for {len(shapes)} {name}, {_listed(shapes)}, and gets '
                    f'{_listed(found)}. Build it for the features that it gets.'
                )


def _listed(shapes: Shapes) -> str:
    shown = [' x '.join(map(str, shape)) for shape in shapes]
    return ', '.join(shown if len(shown) <= 6 else [*shown[:3], '...', shown[-1]])
