"""Distillation with a second, augmented batch."""

import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.compat.layout import laid_out
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.augmentation import Batch, augmented_batch, build_augmentation
from icd_mmrazor.models.algorithms.chosen_losses import chosen_losses, losses_by_name, only, why_not_augmented
from icd_mmrazor.models.algorithms.compilation import compiled_on_request
from icd_mmrazor.models.algorithms.frozen_teacher_distill import FrozenTeacherDistill
from icd_mmrazor.models.algorithms.records import forget, halves, restore_teacher_records, teacher_records
from icd_mmrazor.models.algorithms.shared_preprocessor import names_of, refuse_hard_labels
from icd_mmrazor.models.algorithms.student_losses import student_losses
from icd_mmrazor.models.distillers.mixed_distiller import networks_needed_by, plain_distillers
from icd_mmrazor.models.networks.classifier_layer import number_of_classes


@MODELS.register_module()
class AugmentedDistill(FrozenTeacherDistill):
    """A ``FrozenTeacherDistill`` whose student learns from the teacher on a second batch, too.

    In each step, the batch is augmented on the device: mixed, say. The student runs on both batches, one after the
    other, so that batch norms see them separately; the teacher runs once on both. The losses of the distiller are
    computed for each batch, and added up: ``distill.loss_kd`` and ``augmented.distill.loss_kd``. The student's own loss
    is that of the original batch, whose labels are certain.

    This is what R2KD (arXiv 2311.13934) and MixKD (arXiv 2011.00593) do with augmented images. In contrast,
    ``data_preprocessor.batch_augments`` replaces a batch. Once ``StopDistillHook`` has stopped the distillation, there
    is no second batch any more.

    Args:
        *args: Same as in ``FrozenTeacherDistill``.
        augment: Config of the augmentation: ``Mixup``, ``CutMix``, ``ResizeMix`` or another one of mmpretrain's
            ``BATCH_AUGMENTS``, ``BatchCutout`` or ``BatchAutoAugment``.
        augmented_student_weight: Weight of the student's own loss of the augmented batch, with mixed labels (MixKD's
            student mixup). It needs labels of all images.
        original_losses: Names of the distiller's losses that count on the original batch, as they are logged, without
            ``distill.``: ``['loss_kd']``. All by default; without any, the teacher does not see this batch.
        augmented_losses: Those that count on the augmented one. By default all that can: mixed images have neither one
            label nor a position in the training set.
        **kwargs: Same as in ``FrozenTeacherDistill``.

    Raises:
        SettingError: Same as in ``FrozenTeacherDistill``; the augmentation is unknown or refuses its settings, the
            batches are mixed already, a loss cannot be computed of augmented images, or nothing is learned from them.

    Config example, R2KD::

        model = dict(
            type='AugmentedDistill',
            augment=dict(type='CutMix', alpha=1.0),
            pruned_teacher=dict(amount=0.1, weight=0.3),
            distiller=dict(
                type='FeatureDistiller',
                losses=dict(r2kd=dict(
                    loss=dict(type='CorrelationDistanceLoss', loss_weight=2.0), features='logits'))),
            ...)
    """

    # what it needs of networks and images: icd_mmrazor.recipes.needs_of
    needs: ClassVar[tuple[str, ...]] = ('unmixed',)

    def __init__(
        self,
        *args: Any,
        augment: dict,
        augmented_student_weight: float = 0.0,
        original_losses: Sequence[str] | None = None,
        augmented_losses: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        owner = type(self).__name__
        self.augmented_student_weight = checks.not_negative(owner, 'augmented_student_weight', augmented_student_weight)
        self._refuse_other_settings(owner)
        self.augment = build_augmentation(owner, augment, self.data_preprocessor)
        losses = losses_by_name(self.distiller)
        self.original_losses = chosen_losses(owner, 'original_losses', original_losses, losses)
        self.augmented_losses = chosen_losses(owner, 'augmented_losses', augmented_losses, losses)
        mixes = getattr(self.augment, 'mixes_images', True)
        reasons = {name: why_not_augmented(losses[name], mixes) for name in self.augmented_losses}
        unfit = [f'{type(losses[name]).__name__} ({name}) {reason}' for name, reason in reasons.items() if reason]
        self.augmented_losses = [name for name, reason in reasons.items() if reason is None]
        if unfit and (augmented_losses is not None or not (self.augmented_losses or augmented_student_weight)):
            raise SettingError(
                f'{owner}: {unfit[0]}, but {names_of(self.augment)} mixes images. Leave it out of '
                "model.augmented_losses, or use another method, or augment=dict(type='BatchCutout')."
            )
        if not self.augmented_losses and not augmented_student_weight and losses:
            raise SettingError(
                f'{owner}: augmented_losses=[], augmented_student_weight=0: nothing is learned from the augmented '
                "batch. Name a loss, or set model.type='FrozenTeacherDistill'."
            )
        if augmented_student_weight and mixes:
            refuse_hard_labels(self, self.augment, 'model.augmented_student_weight=0')
        # what reads the labels of the augmented batch, for messages
        readers = [name for name in self.augmented_losses if getattr(losses[name], 'reads_scores', False)]
        readers = ['augmented_student_weight'] * bool(augmented_student_weight) + readers
        self.reader_of_labels = readers[0] if readers else None
        of_augmented = ', '.join(self.augmented_losses) or 'the loss of the student'
        unused = f' Not there: {"; ".join(unfit)}.' if unfit else ''
        print_log(f'{owner}: {names_of(self.augment)} makes a second batch for {of_augmented}.{unused}', 'current')

    @property
    def augmented_terms(self) -> list[str]:
        """The terms of the loss that are those of the augmented batch, for the report."""
        weight = self.augmented_student_weight
        student = [f'augmented.student.loss: as above, with weight {weight}'] if weight else []
        of = f'as above, of the batch by {names_of(self.augment)}'
        return [*student, *(f'augmented.distill.{name}: {of}' for name in self.augmented_losses)]

    def _refuse_other_settings(self, owner: str) -> None:
        augments = getattr(self.data_preprocessor, 'batch_augments', None)
        if augments is not None:
            raise SettingError(
                f'{owner}: data_preprocessor.batch_augments ({names_of(augments)}) would mix the original batch, too. '
                "Set data_preprocessor.batch_augments=None, or model.type='FrozenTeacherDistill' to learn from mixed "
                'images alone.'
            )
        if getattr(self.teacher, 'is_stored', False):
            raise SettingError(
                f'{owner}: the teacher is not in memory, and its outputs for augmented images are stored nowhere. Set '
                'model.teacher_ckpt.'
            )
        for each in plain_distillers(self.distiller):
            if getattr(getattr(each, 'deliveries', None), 'deliveries', None):
                raise SettingError(
                    f'{owner}: deliveries of {type(each).__name__} hand to the student what the teacher, which runs on '
                    "two batches at once, computes. Remove them, or set model.type='FrozenTeacherDistill'."
                )
        for name, loss in losses_by_name(self.distiller).items():
            if getattr(loss, 'reads_views', False):
                raise SettingError(
                    f'{owner}: {type(loss).__name__} ({name}) compares two views of each image in a batch, which are '
                    "augmented as different images here. Set model.type='FrozenTeacherDistill', or use another method."
                )

    def _loss(self, batch_inputs: Tensor, data_samples: list | None, stored: dict | None) -> dict[str, Tensor]:
        """Augment the batch, outside of a compiled graph, and compute the losses of both."""
        classes = getattr(self.data_preprocessor, 'num_classes', None) or number_of_classes(self.student)
        images, samples = augmented_batch(
            self.augment, Batch(batch_inputs, data_samples), classes, self.reader_of_labels
        )
        images = laid_out(images, self.channels_last) if images.ndim == 4 else images
        return self._losses_of_both(batch_inputs, data_samples, stored, images, samples)

    @compiled_on_request
    def _losses_of_both(
        self, batch_inputs: Tensor, data_samples: list | None, stored: dict | None, images: Tensor, samples: list | None
    ) -> dict[str, Tensor]:
        original, augmented = Batch(batch_inputs, data_samples), Batch(images, samples)
        of_original, of_augmented = self._teacher_of_both(original, augmented, stored)
        with only(self.distiller, self.original_losses):
            restore_teacher_records(self.distiller, of_original)
            losses = self._compare(*original, self._student_losses)
        with only(self.distiller, self.augmented_losses):
            restore_teacher_records(self.distiller, of_augmented)
            others = self._compare(*augmented, self._augmented_student_losses)
        return losses | add_prefix(others, 'augmented')

    def _teacher_of_both(self, original: Batch, augmented: Batch, stored: dict | None) -> Sequence[list[list]]:
        """Return what the teacher's recorders record of each batch, from one pass if that is possible."""
        distiller, chosen = self.distiller, (self.original_losses, self.augmented_losses)
        alone = stored is not None or getattr(self.teacher, 'uses_batch_statistics', False)
        if not alone and all(map(self._needs, chosen)):
            images = torch.cat([original.images, augmented.images])
            known = original.data_samples and augmented.data_samples
            self._record_teacher(images, [*original.data_samples, *augmented.data_samples] if known else None)
            return halves(teacher_records(distiller), len(images))
        records = []
        for batch, names, known in zip((original, augmented), chosen, (stored, None), strict=True):
            with only(distiller, names):
                self._record_teacher(*batch, known)
            records.append(teacher_records(distiller))
            forget(distiller)
        return records

    def _needs(self, names: Sequence[str]) -> bool:
        """Return whether these losses compare anything of the teacher in this stage."""
        with only(self.distiller, names):
            return 'teacher' in networks_needed_by(self.distiller)

    def _augmented_student_losses(self, images: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        """Run the student on the augmented batch; return its own losses, if they count."""
        weight = self.augmented_student_weight
        if weight:
            losses = student_losses(self.student, images, data_samples, self.class_scores)
            weighted = {name: weight * value if 'loss' in name else value for name, value in losses.items()}
            return add_prefix(weighted, 'student')
        with contextlib.nullcontext() if self.student_trainable else torch.no_grad():
            self.student(images, data_samples, mode='tensor')
        return {}


@MODELS.register_module()
class MixupDistill(AugmentedDistill):
    """MixKD (Liang et al., arXiv 2011.00593) for images: an ``AugmentedDistill`` by Mixup.

    The student learns what its teacher says about mixtures of two images, in addition to the images themselves. The
    teacher sees the mixture; its answers are not interpolated. ``augmented_student_weight`` is the weight of the
    student's mixup loss, which secondary sources name; the paper's formulas were not at hand.

    Args:
        *args: Same as in ``FrozenTeacherDistill``.
        augment: Same as in ``AugmentedDistill``. By default Mixup with ``Beta(1, 1)``, one share per batch.
        **kwargs: Same as in ``AugmentedDistill``.

    Raises:
        SettingError: Same as in ``AugmentedDistill``.

    Config example, KD of mixtures alone, next to the cross-entropy of the images::

        model = dict(type='MixupDistill', original_losses=[], augmented_student_weight=1.0, ...)
    """

    def __init__(self, *args: Any, augment: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, augment=dict(type='Mixup', alpha=1.0) if augment is None else augment, **kwargs)
