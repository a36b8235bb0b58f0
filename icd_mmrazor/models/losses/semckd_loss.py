"""Cross-layer distillation with semantic calibration (SemCKD)."""

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.feature_lists import ShapedListLoss, Shapes
from icd_mmrazor.models.losses.functional import pool_to_smaller, unit_vectors

# the embeddings are narrower than the batch by this
REDUCTION = 4


@MODELS.register_module()
class SemCKDLoss(ShapedListLoss):
    """Cross-layer distillation with semantic calibration (SemCKD, Chen et al., AAAI 2021, arXiv 2012.03236).

    Each map of the student is compared with every map of the teacher, through a regressor of its own, and each image
    weighs these comparisons by attention: a row of similarities with all images of the batch (inner products of maps)
    is embedded by two linear layers with a ReLU between them, and normalised; the softmax over the teacher's maps of
    the products of a student's and the teachers' embeddings gives the weights. The loss is the mean over the images and
    the student's maps of the weighted mean squared errors.

    As released (DefangChen/SemCKD, commit ebe5db1), a larger map is averaged to the size of the smaller one, the
    student's before its regressor, and gradients also flow through the weights. The embedding reads one similarity for
    each image of a batch, so its width is the size of a batch. The release leaves out the last batch of an epoch if
    it is smaller, for the task, too. Here such a batch counts, with similarities of 0 for the images that it lacks;
    a larger batch is refused. The embedding of a row whose length is 0 is 0, not NaN.

    With several processes, images are compared within each.

    Args:
        student_shapes: Shapes of the student's maps, ``C x H x W``. A ``FeatureDistiller`` gives them.
        teacher_shapes: Shapes of the teacher's maps.
        batch_size: Images in a batch of one process, at least 4. Our tools set it to ``train_dataloader.batch_size``
            (twice that with two views) unless the config has it.
        loss_weight: Weight of the loss. The authors use 400, and 50 on ImageNet.

    Raises:
        SettingError: A setting is out of range, or a batch is larger than ``batch_size``.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(semckd=dict(
                loss=dict(type='SemCKDLoss', loss_weight=400.0),
                inputs=dict(
                    s_features=dict(network='student', feature=['maps']),
                    t_features=dict(network='teacher', feature=['maps'])))))
    """

    built_for_batches = True

    def __init__(
        self, student_shapes: Shapes, teacher_shapes: Shapes, batch_size: int = 64, loss_weight: float = 1.0
    ) -> None:
        super().__init__(student_shapes, teacher_shapes, loss_weight)
        self.batch_size = checks.positive_int(self, 'batch_size', batch_size)
        if batch_size < REDUCTION:
            raise SettingError(f'SemCKDLoss: batch_size={batch_size} must be {REDUCTION} or more.')
        self.queries = nn.ModuleList(_embedding(batch_size) for _ in self._student_shapes)
        self.keys = nn.ModuleList(_embedding(batch_size) for _ in self._teacher_shapes)
        self.regressors = nn.ModuleList(
            nn.ModuleList(_regressor(student[0], teacher[0]) for teacher in self._teacher_shapes)
            for student in self._student_shapes
        )

    def compare(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Compute the loss of maps ``B x C x H x W`` of each network."""
        weights = self.attention(students, teachers)
        rows = []
        for i, student in enumerate(students):
            errors = [
                self._errors(self.regressors.get_submodule(f'{i}.{j}'), student, teacher)
                for j, teacher in enumerate(teachers)
            ]
            rows.append(torch.stack(errors, dim=1))
        # B x students x teachers
        return (weights * torch.stack(rows, dim=1)).sum(dim=2).mean()

    def attention(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Compute the weight of each of the teacher's maps for each image and each of the student's maps.

        Returns:
            Weights, ``B x`` student's maps ``x`` teacher's maps, whose sum over the last is 1.

        Raises:
            SettingError: The batch is larger than ``batch_size``.
        """
        queries, keys = (
            torch.stack([self._embedded(embedding, each) for embedding, each in zip(layers, maps, strict=True)], dim=1)
            for layers, maps in ((self.queries, students), (self.keys, teachers))
        )
        return (queries @ keys.mT).softmax(dim=2)

    def _embedded(self, embedding: nn.Module, maps: Tensor) -> Tensor:
        lacking = self.batch_size - len(maps)
        if lacking < 0:
            raise SettingError(
                f'SemCKDLoss: batch_size={self.batch_size}, but a batch has {len(maps)} images. Set batch_size of the '
                'loss to the number of images, and build it again.'
            )
        rows = maps.flatten(1)
        return unit_vectors(embedding(F.pad(rows @ rows.T, (0, lacking))))

    @staticmethod
    def _errors(regressor: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = pool_to_smaller(student, teacher)
        return (regressor(student) - teacher).square().flatten(1).mean(dim=1)


def _embedding(images: int) -> nn.Sequential:
    width = images // REDUCTION
    return nn.Sequential(nn.Linear(images, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def _regressor(student: int, teacher: int) -> nn.Sequential:
    width = 2 * teacher
    return nn.Sequential(
        nn.Conv2d(student, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, teacher, 1, bias=False),
    )
