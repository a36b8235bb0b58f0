"""Features that recorders hold from the forward passes to the losses."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from mmrazor.models.task_modules.recorder import ModuleInputsRecorder, ModuleOutputsRecorder
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from icd_mmrazor.compat.recording import map_tensors
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.mixed_distiller import plain_distillers
from icd_mmrazor.models.networks.classifier_layer import classifying_layers, is_headless, number_of_classes
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble


def recorders_of(distiller: nn.Module, *networks: str) -> Iterator[BaseRecorder]:
    """Yield the recorders of a distiller, or of all those in a ``MixedDistiller``; of both networks unless given."""
    for network in networks or ('teacher', 'student'):
        for each in plain_distillers(distiller):
            yield from getattr(each, f'{network}_recorders').recorders.values()


def make_plain(distiller: nn.Module) -> None:
    """Convert what a distiller's recorders hold in half precision to float32, which losses expect.

    Autocast does not do so for all losses: on a CPU it leaves a softmax of logits as it is.
    """
    for recorder in recorders_of(distiller):
        buffer = recorder.data_buffer
        if isinstance(buffer, list):
            buffer[:] = [map_tensors(_plain, record) for record in buffer]


def forget(distiller: nn.Module) -> None:
    """Empty the recorders of a distiller, so that features do not stay in memory during the backward pass."""
    for recorder in recorders_of(distiller):
        recorder.reset_data_buffer()


def teacher_records(distiller: nn.Module) -> list[list]:
    """Return what the recorders of the teacher hold, for each of them."""
    return [[*recorder.data_buffer] for recorder in recorders_of(distiller, 'teacher')]


def restore_teacher_records(distiller: nn.Module, records: Sequence[list]) -> None:
    """Let the recorders of the teacher hold what :func:`teacher_records` has returned."""
    for recorder, kept in zip(recorders_of(distiller, 'teacher'), records, strict=True):
        recorder.reset_data_buffer()
        recorder.data_buffer[:] = kept


def halves(records: Sequence[list], images: int) -> tuple[list[list], list[list]]:
    """Split records of two batches that ran as one, of so many images together, into those of each batch.

    A tensor whose rows are not those of the images, nor several of each, belongs to both.
    """

    def half(number: int, tensor: Tensor) -> Tensor:
        return tensor.chunk(2)[number] if tensor.ndim and len(tensor) and len(tensor) % images == 0 else tensor

    first, second = ([map_tensors(partial(half, number), kept) for kept in records] for number in range(2))
    return first, second


def refuse_other_classes(algorithm: Any) -> None:
    """Refuse a ``FrozenTeacherDistill`` that compares logits of different numbers of classes."""
    student, teacher = number_of_classes(algorithm.student), number_of_classes(algorithm.teacher)
    if student and teacher and student != teacher and reads_logits(algorithm.distiller, algorithm.teacher):
        raise SettingError(
            f'FrozenTeacherDistill: the teacher has {teacher} classes, the student {student}, and their logits are '
            'compared. Set model.teacher.head.num_classes and model.architecture.head.num_classes to those of the '
            'dataset, or use a method that compares features, such as ICDDistiller without kd.'
        )


def reads_logits(distiller: nn.Module, network: nn.Module, name: str = 'teacher') -> bool:
    """Return whether a distiller compares logits of a network; otherwise it compares features only.

    Everything recorded in the network's head counts as logits, except for the input of the classifying layer. So does
    what is not recorded of a module. ``name`` is ``'teacher'`` or ``'student'``.
    """
    if isinstance(network, TeacherEnsemble):
        return any(reads_logits_of_member(distiller, network, i) for i in range(len(network.members)))
    if is_headless(network):
        return False
    if not hasattr(distiller, f'{name}_recorders'):
        return True
    classifiers = classifying_layers(network)
    return any(_records_logits(recorder, recorder.source, classifiers) for recorder in recorders_of(distiller, name))


def reads_logits_of_member(distiller: nn.Module, network: TeacherEnsemble, i: int) -> bool:
    """Return whether a distiller compares the logits of one of several teachers, or those of all combined."""
    if not hasattr(distiller, 'teacher_recorders'):
        return True
    member, prefix = network.members[i], f'{i}.'
    recorders = list(recorders_of(distiller, 'teacher'))
    if network.head is not None and any(not recorder.source[:1].isdigit() for recorder in recorders):
        return True
    if is_headless(member):
        return False
    classifiers = classifying_layers(member)
    of_member = [recorder for recorder in recorders if recorder.source.startswith(prefix)]
    return any(_records_logits(each, each.source.removeprefix(prefix), classifiers) for each in of_member)


def classifier_is_used(algorithm: nn.Module) -> bool:
    """Return whether a loss reads the logits of the student; true for everything but a distillation of features."""
    distiller = getattr(algorithm, 'distiller', None)
    if distiller is None or getattr(algorithm, 'calculate_student_loss', True):
        return True
    return reads_logits(distiller, algorithm.architecture, 'student')


def freeze_unread_classifier(algorithm: nn.Module) -> None:
    """Exclude the student's classifying layer from training if no loss reads its output.

    DDP would wait for its gradient.
    """
    if classifier_is_used(algorithm) or is_headless(algorithm.architecture):
        return
    name = getattr(algorithm.distiller, 'student_source', 'auto')
    if name in ('auto', None):
        found = classifying_layers(algorithm.architecture)
        if len(found) != 1:
            return
        (name,) = found
    algorithm.architecture.get_submodule(name).requires_grad_(False)
    print_log(f'FrozenTeacherDistill: no loss reads the logits of the student, so {name} is not trained.', 'current')


def _records_logits(recorder: BaseRecorder, source: str, classifiers: list[str]) -> bool:
    holds_classifier = any(f'{name}.'.startswith(f'{source}.') or not source for name in classifiers)
    if isinstance(recorder, ModuleInputsRecorder):
        return not holds_classifier and source.startswith('head')
    if isinstance(recorder, ModuleOutputsRecorder):
        return holds_classifier or source.startswith('head')
    return True


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
