"""How far the student has to be run for what a distillation compares, and whether that takes labels."""

from collections.abc import Iterator

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from icd_mmrazor.datasets.samples import without_labels
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.records import forget, recorders_of
from icd_mmrazor.models.distillers.mixed_distiller import plain_distillers
from icd_mmrazor.models.networks.passes import in_eval_mode


def check_labels(algorithm: BaseModel, data_samples: list | None) -> None:
    """Refuse images without labels where a distillation cannot do without them.

    Args:
        algorithm: A ``FrozenTeacherDistill``.
        data_samples: Those of the first batch.

    Raises:
        SettingError: The student's own loss needs labels, or ``batch_augments`` would leave the images as they are.
    """
    if not without_labels(data_samples):
        return
    if algorithm.calculate_student_loss and (head := _reader_of_labels(algorithm.architecture)):
        raise SettingError(
            f'FrozenTeacherDistill: the training images have no labels, and the loss of the student ({head}) reads '
            'them. Give a dataset with labels, or set model.calculate_student_loss=False, which trains by the losses '
            'of the distiller alone.'
        )
    if getattr(algorithm.data_preprocessor, 'batch_augments', None) is not None:
        raise SettingError(
            'FrozenTeacherDistill: data_preprocessor.batch_augments mix images together with their labels, and the '
            'training images have none, so nothing would be mixed. Give a dataset with labels, or remove them.'
        )


def _reader_of_labels(student: nn.Module) -> str | None:
    """Return the name of the class whose loss is one of mmpretrain's, which all read labels."""
    part = getattr(student, 'head', None) or student
    methods = [getattr(type(part), name, None) for name in ('loss', '_get_loss')]
    ours = all(method is None or method.__module__.startswith('mmpretrain.') for method in methods)
    return type(part).__name__ if ours else None


@torch.no_grad()
def needed_pass(distiller: nn.Module, student: BaseModel, images: Tensor, data_samples: list | None) -> str:
    """Find the pass of the student that gives every recorder what it records, where its own loss is left out.

    That is the one that ends with the logits, unless something is recorded that belongs to the loss, as the labels
    for mmrazor's ``DKDLoss``. Two images are run in eval mode, to see it.

    Args:
        distiller: Any distiller, its recorders at work.
        student: The student. Its weights and buffers stay as they are.
        images: ``B x C x H x W``.
        data_samples: Those of the images.

    Returns:
        The ``mode`` of ``student.forward``: ``'tensor'`` or ``'loss'``.

    Raises:
        SettingError: The pass with the loss is needed, and the images have no labels for it.
    """
    with in_eval_mode(student), distiller.student_recorders:
        student(images[:2], data_samples and data_samples[:2], mode='tensor')
    unseen = dict(_recorders_without_records(distiller))
    forget(recorders_of(distiller, 'student'))
    if not unseen:
        return 'tensor'
    if without_labels(data_samples):
        losses = ', '.join(filter(None, unseen.values())) or 'the distiller'
        raise SettingError(
            f'FrozenTeacherDistill: {losses} takes what the loss of the student is computed from '
            f'(student_recorders: {", ".join(unseen)}), and the training images have no labels for it. '
            'Give a dataset with labels, or another loss.'
        )
    return 'loss'


def _recorders_without_records(distiller: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of the student's recorders that saw nothing, and of the losses that take their records."""
    for each in plain_distillers(distiller):
        for name, recorder in each.student_recorders.recorders.items():
            if recorder.data_buffer:
                continue
            losses = [
                f'{loss} ({type(each.distill_losses[loss]).__name__})'
                for loss, mapping in getattr(each, 'loss_forward_mappings', {}).items()
                if any(record['from_student'] and record['recorder'] == name for record in mapping.values())
            ]
            yield name, ', '.join(losses)
