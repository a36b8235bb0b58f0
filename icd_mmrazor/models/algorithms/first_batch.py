"""Checks of the first batch of a distillation."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from icd_mmrazor.datasets.samples import number_labeled, without_labels
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.gradient_norms import measured
from icd_mmrazor.models.algorithms.records import forget
from icd_mmrazor.models.algorithms.shared_preprocessor import channels_of
from icd_mmrazor.models.algorithms.student_losses import (
    refuse_mixing_by_labels,
    refuse_need_of_every_label,
    refuse_reader_of_labels,
)
from icd_mmrazor.models.distillers.loss_mappings import records_of
from icd_mmrazor.models.distillers.mixed_distiller import plain_distillers
from icd_mmrazor.models.networks.features import in_eval_mode
from icd_mmrazor.models.networks.passes import explained_pass
from icd_mmrazor.models.precision import check_precision


def checked_first_batch(loss: Callable) -> Callable:
    """Decorate the ``loss`` of a ``FrozenTeacherDistill`` so that its first batch is checked, and errors explained.

    While ``reports_gradients`` is true, it also measures the gradient of each term: the first batch logs a line, and
    later ones return numbers for the log.
    """

    @functools.wraps(loss)
    def checked(self: Any, batch_inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        if self.first_batch_passed:
            if not self.reports_gradients or self.torch_compile:
                return loss(self, batch_inputs, data_samples)
            losses, norms = measured(self, lambda: loss(self, batch_inputs, data_samples))
            relative = {} if norms is None else norms.relative
            return losses | {name: batch_inputs.new_tensor(norm) for name, norm in relative.items()}
        networks = {'model.teacher': self.teacher, 'model.architecture': self.architecture, 'model': self}
        with explained_pass('FrozenTeacherDistill', batch_inputs, **networks):
            _check_batch(self, batch_inputs, data_samples)
            if self.reports_gradients and not self.torch_compile:
                losses, norms = measured(self, lambda: loss(self, batch_inputs, data_samples))
                if norms is not None:
                    print_log(f'FrozenTeacherDistill: {norms}', logger='current')
            else:
                losses = loss(self, batch_inputs, data_samples)
        self.first_batch_passed = True
        return losses

    return checked


def _check_batch(algorithm: Any, images: Tensor, data_samples: list | None) -> None:
    if not algorithm.teacher_preparation.settled:  # in runs without SanityCheckHook
        source, gray = channels_of(images, data_samples, algorithm.data_preprocessor)
        algorithm.check_order_of_channels(source, lambda: gray)
    dtypes = {algorithm.teacher_dtype, *getattr(algorithm.teacher, 'dtypes', ())} - {None}
    for dtype in dtypes:
        check_precision(dtype, next(algorithm.parameters()).device, 'model.teacher_precision')
    if hasattr(algorithm.architecture, 'refuse_other_classifier'):
        algorithm.architecture.refuse_other_classifier()
    if without_labels(data_samples):
        refuse_need_of_labels(algorithm)
    elif number_labeled(data_samples, len(images)) is not None:
        _check_partly_labeled(algorithm, images, data_samples)
    if not algorithm.calculate_student_loss:
        algorithm.student_pass = _needed_pass(algorithm, images, data_samples)


def refuse_need_of_labels(algorithm: Any) -> None:
    """Refuse a ``FrozenTeacherDistill`` that reads labels, for images that have none."""
    if algorithm.calculate_student_loss and (head := _reader_of_labels(algorithm.architecture)):
        raise SettingError(
            f'FrozenTeacherDistill: the training images have no labels, which the loss of the student ({head}) reads. '
            'Use a dataset with labels, or set model.calculate_student_loss=False.'
        )
    refuse_mixing_by_labels(algorithm.data_preprocessor)


def _check_partly_labeled(algorithm: Any, images: Tensor, data_samples: list) -> None:
    refuse_need_of_every_label(algorithm)
    for reader in filter(None, _empty(algorithm, images, data_samples).values()):
        refuse_reader_of_labels(reader)


def _reader_of_labels(student: nn.Module) -> str | None:
    """Return the name of the class whose loss is one of mmpretrain's, which all read labels."""
    part = getattr(student, 'head', None) or student
    methods = [getattr(type(part), name, None) for name in ('loss', '_get_loss')]
    of_mmpretrain = all(method is None or method.__module__.startswith('mmpretrain.') for method in methods)
    return type(part).__name__ if of_mmpretrain else None


def _needed_pass(algorithm: Any, images: Tensor, data_samples: list | None) -> str:
    """Find the ``mode`` of the student's forward pass in which all recorders record, if its loss does not count.

    ``'tensor'`` stops at the logits. ``'loss'`` is needed if something of the loss is recorded, such as the labels for
    mmrazor's ``DKDLoss``. Two images are run in eval mode to find out.
    """
    empty = _empty(algorithm, images, data_samples)
    if not empty:
        return 'tensor'
    if without_labels(data_samples):
        losses = ', '.join(filter(None, empty.values())) or 'the distiller'
        raise SettingError(
            f'FrozenTeacherDistill: {losses} reads what the loss of the student takes (student_recorders: '
            f'{", ".join(empty)}), and the training images have no labels. Use a dataset with labels, or another loss.'
        )
    return 'loss'


@torch.no_grad()
def _empty(algorithm: Any, images: Tensor, data_samples: list | None) -> dict[str, str]:
    """Return the student's recorders that record nothing up to the logits, each with the losses that read it."""
    distiller, student = algorithm.distiller, algorithm.student
    with in_eval_mode(student), distiller.student_recorders:
        student(images[:2], data_samples and data_samples[:2], mode='tensor')
    empty = {
        name: _readers_of(each, name)
        for each in plain_distillers(distiller)
        for name, recorder in each.student_recorders.recorders.items()
        if not recorder.data_buffer
    }
    forget(distiller)
    return empty


def _readers_of(distiller: nn.Module, recorder: str) -> str:
    """Name the losses that read a recorder of the student: ``'loss_dkd (DKDLoss)'``."""
    return ', '.join(
        f'{loss} ({type(distiller.distill_losses[loss]).__name__})'
        for loss, inputs in getattr(distiller, 'loss_forward_mappings', {}).items()
        if any(record['from_student'] and record['recorder'] == recorder for record in records_of(inputs))
    )
