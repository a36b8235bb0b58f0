"""What the losses between two features have in common: checks, precision, sizes, weight."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError


class FeatureLoss(nn.Module):
    """Base of a loss between a feature of the student and one of the teacher.

    A subclass writes :meth:`compare`, and says in its class attributes what it takes. Before ``compare`` is called, the
    features are checked, cast to float32 at least (autocast is off inside), and brought to one form: maps of different
    sizes are averaged to the smaller size, anything else is flattened to ``B x D``.

    Args:
        loss_weight: Weight of the loss.

    Raises:
        SettingError: The weight is not a finite number.

    Attributes:
        takes_maps (bool): Whether ``compare`` takes maps, ``B x C x H x W``; otherwise ``B x D``.
        same_width_by (str | None): The connector that gives both features the same number of channels, for a loss that
            needs it. ``None``: the numbers may differ.
        compares_images (bool): Whether the images of a batch are compared with one another: of one image nothing is
            learned.
        reads_labels (bool): Whether it goes by one label an image, so that images cannot be mixed (Mixup, CutMix).

    Example, a method of your own::

        @MODELS.register_module()
        class CentroidLoss(FeatureLoss):
            same_width_by = 'LinearProjection'

            def compare(self, student, teacher):
                return (student.mean(0) - teacher.mean(0)).square().sum()
    """

    takes_maps: ClassVar[bool] = False
    same_width_by: ClassVar[str | None] = None
    compares_images: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = self._finite('loss_weight', loss_weight)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            s_feature: The student's feature, ``B x C x H x W`` or ``B x D``.
            t_feature: The teacher's feature of the same images.

        Returns:
            The loss, a scalar.

        Raises:
            SettingError: The two cannot be compared.
        """
        self._check(s_feature, t_feature)
        with full_precision(s_feature, t_feature) as (student, teacher):
            if self.takes_maps:
                student, teacher = pool_to_smaller(student, teacher)
            else:
                student, teacher = student.flatten(1), teacher.flatten(1)
            return self.loss_weight * self.compare(student, teacher)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of two features, without its weight.

        Args:
            student: Maps ``B x C x H x W``, or ``B x D``.
            teacher: The same; where both are maps, ``H x W`` is that of the student's.

        Returns:
            A scalar.
        """
        raise NotImplementedError

    def _check(self, s_feature: Tensor, t_feature: Tensor) -> None:
        name = type(self).__name__
        shapes = f's_feature is {tuple(s_feature.shape)}, t_feature {tuple(t_feature.shape)}'
        dims, what = ({4}, 'maps, images x channels x height x width') if self.takes_maps else ({2, 3, 4}, 'features')
        if not {s_feature.ndim, t_feature.ndim} <= dims or 0 in (*s_feature.shape, *t_feature.shape):
            raise SettingError(
                f'{name} takes two {what}: {shapes}. Record '
                + ('a stage of the network.' if self.takes_maps else 'a stage, or the input of the classifier.')
            )
        if len(s_feature) != len(t_feature):
            raise SettingError(f'{name} compares features of the same images, the batch sizes differ: {shapes}.')
        widths = slice(1, 2) if self.takes_maps else slice(1, None)
        if self.same_width_by and s_feature.shape[widths].numel() != t_feature.shape[widths].numel():
            raise SettingError(
                f'{name} compares features of one width, the widths differ: {shapes}. Bring them to one with a '
                f'connector: {self.same_width_by}.'
            )

    def _finite(self, name: str, value: float) -> float:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise SettingError(f'{type(self).__name__}: {name}={value!r} must be a finite number.')
        return value

    def extra_repr(self) -> str:
        """Show the weight in the printed model and in the report at the start of a run."""
        return f'loss_weight={self.loss_weight}'


@contextlib.contextmanager
def full_precision(*features: Tensor) -> Iterator[list[Tensor]]:
    """Turn autocast off and give features in one type, float32 at least.

    Sums of squares and products of whole maps leave the range of a half.

    Args:
        *features: Any tensors, all on one device.

    Yields:
        The same, cast.
    """
    dtype = functools.reduce(torch.promote_types, (feature.dtype for feature in features), torch.float32)
    with torch.autocast(features[0].device.type, enabled=False):
        yield [feature.to(dtype) for feature in features]


def pool_to_smaller(*maps: Tensor) -> list[Tensor]:
    """Average maps to the smallest height and width among them.

    Args:
        *maps: ``B x C x H x W`` each.

    Returns:
        The same with one ``H x W``; those that have it already are not touched.
    """
    size = min(m.shape[2] for m in maps), min(m.shape[3] for m in maps)
    return [_pooled(m, size) for m in maps]


def _pooled(feature: Tensor, size: tuple[int, int]) -> Tensor:
    if feature.shape[2:] == size:
        return feature
    height, width = feature.shape[2:]
    if height % size[0] == 0 and width % size[1] == 0:
        # the same, and on a GPU it has a deterministic gradient
        return F.avg_pool2d(feature, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(feature, size)
