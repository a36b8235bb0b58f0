"""The student's own losses, of those images of a batch that have labels."""

import inspect
import logging
from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log
from mmpretrain.models import ClsHead, HuggingFaceClassifier, MultiLabelClsHead, TimmClassifier
from torch import Tensor, nn

from icd_mmrazor.datasets.samples import number_labeled
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.separate_mixing import mixes_separately
from icd_mmrazor.models.algorithms.token_students import ClassTokenScores
from icd_mmrazor.models.distillers.mixed_distiller import named_distillers, plain_distillers

# their loss is that of the scores which they return in any mode
OF_SCORES = (ClsHead, MultiLabelClsHead, TimmClassifier, HuggingFaceClassifier)


def student_losses(
    student: nn.Module, images: Tensor, data_samples: list | None, class_scores: ClassTokenScores | None = None
) -> dict[str, Tensor]:
    """Run a student on a batch and compute its own losses, the means over the labelled images.

    Args:
        student: The student.
        images: The batch, ``B x C x H x W``.
        data_samples: Their labels. If a part of the images has some (``PartlyLabeledDataset``), the student is run on
            all of them at once, and its loss computed from the scores of those.
        class_scores: The scores that count, of a student with a distillation token.
    """
    labeled = number_labeled(data_samples, len(images))
    if labeled is None and class_scores is None:
        return student(images, data_samples, mode='loss')
    scores = student(images, data_samples, mode='tensor')
    scores = scores if class_scores is None else class_scores.take()
    if labeled is None:
        return loss_part(student)._get_loss(scores, data_samples)
    return loss_part(student)._get_loss(_first(scores, labeled), data_samples[:labeled])


def _first(scores: Any, number: int) -> Any:
    # a Conformer has scores of two branches
    return (
        type(scores)(_first(each, number) for each in scores) if isinstance(scores, list | tuple) else scores[:number]
    )


def loss_part(student: nn.Module) -> nn.Module:
    """Return the part of a classifier that computes its loss from its scores.

    Raises:
        SettingError: There is none: its loss needs the features of the same images.
    """
    part = getattr(student, 'head', None) or student
    kind = type(part)
    usual = any(isinstance(part, each) and kind.loss is each.loss for each in OF_SCORES)
    if hasattr(part, '_get_loss') and (usual or getattr(part, 'loss_reads_scores', False)):
        return part
    raise SettingError(
        f'FrozenTeacherDistill: the loss of the student ({kind.__name__}) cannot be computed for a part of a batch, '
        'and some of the training images have no labels. Use another head, such as LinearClsHead, or set '
        'model.calculate_student_loss=False.'
    )


def refuse_need_of_every_label(algorithm: Any) -> None:
    """Refuse a distillation that reads the label of every image, for batches of which a part has labels.

    Args:
        algorithm: A ``FrozenTeacherDistill``, or another of mmrazor's algorithms with a distiller.

    Raises:
        SettingError: The student's loss cannot be computed for a part of a batch, a loss of the distiller reads
            labels, or images with and without labels would be mixed.
    """
    if not hasattr(algorithm, 'teacher_ckpt'):
        raise SettingError(
            f'{type(algorithm).__name__}: its student needs the label of every image, and some of the training images '
            "have none. Set model.type='FrozenTeacherDistill'."
        )
    if algorithm.calculate_student_loss:
        loss_part(algorithm.student)
    for loss in losses_of_labels(algorithm.distiller):
        refuse_reader_of_labels(loss)
    refuse_mixing_by_labels(algorithm.data_preprocessor)


def refuse_mixing_by_labels(preprocessor: nn.Module) -> None:
    """Refuse a data preprocessor that would mix images with and without labels, or none of those without."""
    if not mixes_separately(preprocessor):
        raise SettingError(
            f'FrozenTeacherDistill: a {type(preprocessor).__name__} mixes images by their labels (batch_augments), and '
            "some of the training images have none. Set data_preprocessor.type='SeparateMixingPreprocessor', or "
            'batch_augments=None.'
        )


def refuse_reader_of_labels(loss: str) -> None:
    """Refuse a loss of the distiller that reads the label of every image."""
    raise SettingError(
        f'FrozenTeacherDistill: {loss} reads the label of every image, and some of the training images have none. Use '
        'another loss, or labelled images alone.'
    )


def losses_of_labels(distiller: nn.Module, mixed: bool = False) -> Iterator[str]:
    """Name the losses of a distiller that read a label for each image: ``'DKDLoss (loss_dkd)'``.

    ``mixed``: leave out those that take the scores of mixed images.
    """
    for name, loss in losses_of(distiller):
        if mixed and getattr(loss, 'reads_scores', False):
            continue
        if reads_label(loss):
            yield f'{type(loss).__name__} ({name})'


def reads_label(loss: nn.Module) -> bool:
    """Return whether a loss reads a label for each image."""
    arguments = inspect.signature(loss.forward).parameters
    return getattr(loss, 'reads_labels', False) or any('label' in argument for argument in arguments)


def losses_of(distiller: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the losses of a distiller, or of all those in a ``MixedDistiller``, each with its name."""
    for each in plain_distillers(distiller):
        yield from getattr(each, 'distill_losses', {}).items()


def idle_losses(algorithm: nn.Module) -> dict[str, str]:
    """Return the losses of a distiller that only another algorithm computes, by their names: which one does."""
    computed_here = {None, *(cls.__name__ for cls in type(algorithm).__mro__)}
    return {
        f'{prefix}{name}': loss.computed_by
        for prefix, each in named_distillers(algorithm.distiller)
        for name, loss in getattr(each, 'distill_losses', {}).items()
        if getattr(loss, 'computed_by', None) not in computed_here
    }


def warn_of_idle_losses(algorithm: nn.Module) -> None:
    """Warn of losses of the distiller that another algorithm would compute."""
    for name, needed in idle_losses(algorithm).items():
        print_log(
            f"{type(algorithm).__name__}: {name} is not computed, which takes model.type='{needed}'.",
            logger='current',
            level=logging.WARNING,
        )
