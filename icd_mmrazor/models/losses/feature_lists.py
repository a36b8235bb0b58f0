"""Base class of the losses that compare many features of both networks at once."""

from collections.abc import Sequence
from typing import ClassVar

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

    A subclass implements :meth:`compare`, and owns what it learns. Before ``compare`` is called, the features are
    checked and cast to at least float32 (autocast is off inside); the teacher's get no gradient. The lists may differ
    in length, and features in size.

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

    def forward(self, s_features: Sequence[Tensor], t_features: Sequence[Tensor]) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_features: The student's features, ``B x C x H x W`` or ``B x C``, in the order of ``student_shapes``.
            t_features: The teacher's features of the same images, in the order of ``teacher_shapes``.

        Raises:
            SettingError: They are not those that the loss was built for, or of different images.
        """
        images = len(s_features[0]) if s_features else 0
        self._check_list('s_features', s_features, self._student_shapes, images)
        self._check_list('t_features', t_features, self._teacher_shapes, images)
        with full_precision(*s_features, *(feature.detach() for feature in t_features)) as features:
            students, teachers = features[: len(s_features)], features[len(s_features) :]
            if self.training and images == 1:
                # DDP waits for a gradient of every parameter
                return 0.0 * torch.stack([tensor.sum() for tensor in (*features, *self.parameters())]).sum()
            return self.loss_weight * self.compare(students, teachers)

    def compare(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:  # type: ignore[override]
        """Compute the loss without its weight, a scalar, of features ``B x C x H x W``, the last perhaps ``B x C``."""
        raise NotImplementedError

    def _check_list(
        self, name: str, features: Sequence[Tensor], shapes: tuple[tuple[int, ...], ...], images: int
    ) -> None:
        found = [tuple(feature.shape) for feature in features]
        # the size of a map may be another one
        fits = len(found) == len(shapes) and all(
            len(got) == len(want) + 1 and got[1] == want[0] and 0 not in got
            for got, want in zip(found, shapes, strict=True)
        )
        if not fits:
            raise SettingError(
                f'{type(self).__name__} was built for {len(shapes)} {name}, {_listed(shapes)}, and gets '
                f'{_listed(found)} with the images. Build it for the features that it gets.'
            )
        if {got[0] for got in found} != {images}:
            raise SettingError(
                f'{type(self).__name__} compares features of the same images, the batch sizes differ: {name} are '
                f'{_listed(found)}.'
            )


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    shown = [' x '.join(map(str, shape)) for shape in shapes]
    return ', '.join(shown if len(shown) <= 6 else [*shown[:3], '...', shown[-1]])
