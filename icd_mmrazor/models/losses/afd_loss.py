"""Attention-based feature distillation (AFD)."""

import math

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.models.losses.feature_lists import ShapedListLoss, Shapes
from icd_mmrazor.models.losses.functional import average_to, unit_vectors


@MODELS.register_module()
class AFDLoss(ShapedListLoss):
    """Attention-based feature distillation (AFD, Ji, Heo and Park, AAAI 2021, arXiv 2102.02973).

    Every map of the student is compared with every map of the teacher, by the means of the squares over the channels,
    normalised in each image (attention transfer); the student's is first averaged to the size of the teacher's. For
    each image and each map of the teacher, attention divides a weight of 1 among the student's maps: the teacher's map
    gives the query, the student's the keys, both embeddings of the means over the pixels, and each pair of maps has a
    learned offset, the product of two vectors. The loss is the sum over the teacher's maps of the weighted mean squared
    errors, the mean over the images.

    As released (clovaai/attention-feature-distillation, commit dd990d0): queries are a linear layer with batch norm;
    keys are a linear layer with batch norm and ReLU, and another one with batch norm to a key for each map of the
    teacher, whose statistics are those of all images and maps of the student together. A map of the student that is
    smaller than the teacher's is enlarged.

    Args:
        student_shapes: Shapes of the student's maps, ``C x H x W``. A ``FeatureDistiller`` gives them.
        teacher_shapes: Shapes of the teacher's maps.
        attention_dims: Width of queries and keys.
        loss_weight: Weight of the loss. The authors use 200.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(afd=dict(
                loss=dict(type='AFDLoss', loss_weight=200.0),
                inputs=dict(
                    s_features=dict(network='student', feature=['blocks']),
                    t_features=dict(network='teacher', feature=['blocks'])))))
    """

    def __init__(
        self, student_shapes: Shapes, teacher_shapes: Shapes, attention_dims: int = 128, loss_weight: float = 1.0
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, loss_weight)
        dims = self.attention_dims = checks.positive_int(self, 'attention_dims', attention_dims)
        students, teachers = len(self._student_shapes), len(self._teacher_shapes)
        self.queries = nn.ModuleList(_normalized_linear(shape[0], dims) for shape in self._teacher_shapes)
        self.keys = nn.ModuleList(_normalized_linear(shape[0], dims) for shape in self._student_shapes)
        self.keys_by_teacher = _normalized_linear(dims, dims * teachers)
        self.teacher_positions = nn.Parameter(torch.empty(teachers, dims))
        self.student_positions = nn.Parameter(torch.empty(students, dims))
        nn.init.xavier_normal_(self.teacher_positions)
        nn.init.xavier_normal_(self.student_positions)

    def compare(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Compute the loss of maps ``B x C x H x W`` of each network."""
        weights = self.attention(students, teachers)
        energies = [each.square().mean(dim=1, keepdim=True) for each in students]
        # by the size of the teacher's maps: B x student's maps x H W
        of_student: dict[tuple[int, ...], Tensor] = {}
        loss = students[0].new_zeros(())
        for i, teacher in enumerate(teachers):
            size = teacher.shape[2], teacher.shape[3]
            if size not in of_student:
                rows = torch.cat([average_to(energy, size) for energy in energies], dim=1)
                of_student[size] = unit_vectors(rows.flatten(2), dim=2)
            of_teacher = unit_vectors(teacher.square().mean(dim=1).flatten(1))
            errors = (of_student[size] - of_teacher[:, None]).square().mean(dim=2)
            loss = loss + (weights[:, i] * errors).sum(dim=1).mean()
        return loss

    def attention(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Compute the weight of each of the student's maps for each image and each of the teacher's maps.

        Returns:
            Weights, ``B x`` teacher's maps ``x`` student's maps, whose sum over the last is 1.
        """
        queries, keys = (
            torch.stack([layer(each.mean(dim=(2, 3))) for layer, each in zip(layers, maps, strict=True)], dim=1)
            for layers, maps in ((self.queries, teachers), (self.keys, students))
        )
        # one batch norm over images and maps
        keys = self.keys_by_teacher(keys.relu().flatten(0, 1))
        keys = keys.reshape(len(queries), len(students), len(teachers), self.attention_dims)
        products = torch.einsum('btd,bstd->bts', queries, keys)
        offsets = self.teacher_positions @ self.student_positions.T
        return ((products + offsets) / math.sqrt(self.attention_dims)).softmax(dim=2)


def _normalized_linear(in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, out_features), nn.BatchNorm1d(out_features))
