"""Distillation through review of earlier layers (ReviewKD)."""

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.feature_lists import MAP, ShapedListLoss, Shapes
from icd_mmrazor.models.losses.functional import average_to
from icd_mmrazor.models.networks.points import evenly_spaced

# of the fused features
WIDEST = 512


@MODELS.register_module()
class ReviewKDLoss(ShapedListLoss):
    """Distillation through review (ReviewKD, Chen et al., CVPR 2021, arXiv 2104.09044).

    From the deepest feature to the shallowest, each of the student's is fused with what was fused before: ``f`` of it
    (1 x 1 convolution, batch norm) and the fusion of the level above, resized, are added with weights between 0 and 1
    that a 1 x 1 convolution finds for each pixel. A 3 x 3 convolution with batch norm brings the fusion to the
    teacher's width, where it is compared with the teacher's feature by hierarchical context (HCL): the mean squared
    error of the maps and of both averaged to 4 x 4, 2 x 2 and 1 x 1, as far as they are smaller, with weights 1, 1/2,
    1/4, 1/8 divided by their sum. The loss is the sum over the features.

    As released (dvlab-research/ReviewKD, commit cede6ea): the fusion is resized to the teacher's map by nearest
    neighbours, which may also make it smaller, and goes on in that size; the student's maps follow an activation, the
    teacher's precede it (on ImageNet, those of both). Both networks have the same number of stages there; here, of the
    network with more maps those at equal distances are compared. The CIFAR-100 script leaves the teacher in training
    mode; here it is in eval mode. The modules are called as there: ``abfs.0`` is that of the deepest feature.

    Args:
        student_shapes: Shapes of the student's features, ``C x H x W``, the last one perhaps ``C`` (pooled). A
            ``FeatureDistiller`` gives them.
        teacher_shapes: Shapes of the teacher's features, with a pooled one if the student has one.
        mid_channels: Width of the fused features; by default that of the student's last feature, at most 512.
        loss_weight: Weight of the loss. The authors use 0.6 to 8, depending on the pair of networks.

    Raises:
        SettingError: A setting is out of range, or only one of the networks has a pooled feature.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(reviewkd=dict(
                loss=dict(type='ReviewKDLoss', loss_weight=5.0),
                inputs=dict(
                    s_features=dict(network='student', feature=['maps', 'pooled']),
                    t_features=dict(network='teacher', feature=['preactivations', 'pooled'])),
                weight_schedule=dict(type='Linear', begin=0, end=21, start_factor=0.0))))
    """

    takes_pooled = True

    def __init__(
        self,
        student_shapes: Shapes,
        teacher_shapes: Shapes,
        mid_channels: int | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, loss_weight)
        students, teachers = self._student_shapes, self._teacher_shapes
        pooled = [len(shapes[-1]) != MAP for shapes in (students, teachers)]
        if pooled[0] != pooled[1]:
            raise SettingError(
                f'ReviewKDLoss: only the {"student" if pooled[0] else "teacher"} has a pooled feature. Name "pooled" '
                'as the last feature of both networks, or of none.'
            )
        self.mid_channels = checks.positive_int(
            self, 'mid_channels', min(WIDEST, students[-1][0]) if mid_channels is None else mid_channels
        )
        maps = [len(shapes) - pooled[0] for shapes in (students, teachers)]
        self._levels = [(*evenly_spaced(min(maps), number), *[number] * pooled[0]) for number in maps]
        if maps[0] != maps[1]:
            pairs = ', '.join(f'{s + 1} with {t + 1}' for s, t in zip(*self._levels, strict=True))
            print_log(f'ReviewKDLoss: compares features {pairs}, in the order of their lists.', logger='current')
        widths = [(students[s][0], teachers[t][0]) for s, t in zip(*self._levels, strict=True)]
        self.abfs = nn.ModuleList(
            Fusion(width, self.mid_channels, out, fuses=level > 0) for level, (width, out) in enumerate(widths[::-1])
        )

    def compare(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Compute the loss of maps ``B x C x H x W`` of each network, the last feature perhaps ``B x C``."""
        loss, fused = students[0].new_zeros(()), None
        for fusion, s, t in zip(self.abfs, *(levels[::-1] for levels in self._levels), strict=True):
            student, teacher = _as_map(students[s]), _as_map(teachers[t])
            output, fused = fusion(student, fused, teacher.shape[2:])
            loss = loss + hierarchical_context(output, teacher)
        return loss


class Fusion(nn.Module):
    """Attention-based fusion (ABF) of a map with that of the level above.

    Args:
        in_channels: Width of the map.
        mid_channels: Width of the fusion.
        out_channels: Width of the output.
        fuses: Whether there is a level above.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, fuses: bool) -> None:
        super().__init__()
        reduction = nn.Conv2d(in_channels, mid_channels, 1, bias=False)
        expansion = nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False)
        self.conv1 = nn.Sequential(reduction, nn.BatchNorm2d(mid_channels))
        self.conv2 = nn.Sequential(expansion, nn.BatchNorm2d(out_channels))
        self.att_conv = nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid()) if fuses else None
        for convolution in (reduction, expansion):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, feature: Tensor, above: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the output, of a height and width, and the fusion for the next level."""
        fused = self.conv1(feature)
        if self.att_conv is not None and above is not None:
            above = _resized(above, fused.shape[2:])
            own, others = self.att_conv(torch.cat([fused, above], dim=1)).split(1, dim=1)
            fused = fused * own + above * others
        fused = _resized(fused, size)
        return self.conv2(fused), fused


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the hierarchical context loss (HCL) of two maps of one shape, ``B x C x H x W``: a weighted mean."""
    loss, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(teacher.shape[2:]):
            weight /= 2
            loss = loss + weight * F.mse_loss(average_to(student, (size, size)), average_to(teacher, (size, size)))
            weights += weight
    return loss / weights


def _as_map(feature: Tensor) -> Tensor:
    return feature[..., None, None] if feature.ndim == 2 else feature


def _resized(feature: Tensor, size: tuple[int, int]) -> Tensor:
    return feature if feature.shape[2:] == size else F.interpolate(feature, size, mode='nearest')
