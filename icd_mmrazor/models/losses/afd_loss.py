"""Attention-based feature distillation (AFD)."""

import math
from typing import ClassVar

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
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

    ``softmax_over='teacher'`` and ``num_keys`` make it RTK (representative teacher keys, Yang, Kao and Huang, arXiv
    2206.12788): each map of the student divides its weight of 1 among the teacher's maps, and only among the
    ``num_keys`` of them with the largest logits of the attention in this image; the others are left out. This is our
    reading of the abstract; the paper's formulas were not at hand.

    Args:
        student_shapes: Shapes of the student's maps, ``C x H x W``. A ``FeatureDistiller`` gives them.
        teacher_shapes: Shapes of the teacher's maps.
        attention_dims: Width of queries and keys.
        loss_weight: Weight of the loss. The authors of AFD use 200.
        num_keys: Among how many maps a weight of 1 is divided, or which share of them, rounded up: ``0.5``. None: all.
        softmax_over: Whose maps a weight of 1 is divided among: ``'student'``, as published, those of the student, for
            each map of the teacher; ``'teacher'``, the other way round.

    Raises:
        SettingError: A setting is out of range, or ``num_keys`` is larger than the number of maps.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(afd=dict(
                loss=dict(type='AFDLoss', loss_weight=200.0),
                inputs=dict(
                    s_features=dict(network='student', feature=['blocks']),
                    t_features=dict(network='teacher', feature=['blocks'])))))
    """

    shown_if_changed: ClassVar[tuple[str, ...]] = ('num_keys', 'softmax_over')

    def __init__(
        self,
        student_shapes: Shapes,
        teacher_shapes: Shapes,
        attention_dims: int = 128,
        loss_weight: float = 1.0,
        num_keys: float | None = None,
        softmax_over: str = 'student',
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, loss_weight)
        self.softmax_over = checks.one_of(self, 'softmax_over', softmax_over, ('student', 'teacher'))
        answering = self._student_shapes if softmax_over == 'student' else self._teacher_shapes
        self.num_keys, self._kept = num_keys, self._number_of_keys(num_keys, len(answering))
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
            Weights, ``B x`` teacher's maps ``x`` student's maps, whose sum over the last is 1; with
            ``softmax_over='teacher'``, that over the teacher's maps.
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
        logits = (products + offsets) / math.sqrt(self.attention_dims)
        dim = 2 if self.softmax_over == 'student' else 1
        if self._kept < logits.shape[dim]:
            kept = logits.detach().topk(self._kept, dim=dim).indices
            logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).scatter(dim, kept, False), -math.inf)
        return logits.softmax(dim=dim)

    def _number_of_keys(self, setting: float | None, maps: int) -> int:
        """Return among how many of the maps a weight is divided."""
        if setting is None:
            return maps
        if isinstance(setting, float) and 0 < setting < 1:
            return math.ceil(setting * maps)
        number = checks.positive_int(self, 'num_keys', setting)
        if number > maps:
            raise SettingError(
                f'{type(self).__name__}: num_keys={number}, but the {self.softmax_over} has {maps} maps. Set at most '
                'as many, a share of them such as 0.5, or None for all.'
            )
        return number


def _normalized_linear(in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, out_features), nn.BatchNorm1d(out_features))
