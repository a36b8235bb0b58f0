"""What recorders hold between the forward passes and the losses."""

from collections.abc import Iterable, Iterator

import torch
from mmrazor.models.task_modules.recorder import ModuleInputsRecorder, ModuleOutputsRecorder
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from icd_mmrazor.compat.recording import map_tensors
from icd_mmrazor.models.networks.classifier_layer import classifying_layers


def recorders_of(distiller: nn.Module, network: str) -> Iterator[BaseRecorder]:
    """Yield the recorders of a distiller, or of all those in a ``MixedDistiller``.

    Args:
        distiller: Any distiller.
        network: ``'student'`` or ``'teacher'``.
    """
    if hasattr(distiller, 'distillers'):
        for inner in distiller.distillers.values():
            yield from recorders_of(inner, network)
    else:
        yield from getattr(distiller, f'{network}_recorders').recorders.values()


def reads_logits(distiller: nn.Module, teacher: nn.Module) -> bool:
    """Return whether a distiller compares what a teacher says of classes; else it compares features only.

    Args:
        distiller: Any distiller.
        teacher: Its teacher. What is recorded of its head, but for what the classifying layer gets, and what a recorder
            that is not of a module records, counts as logits.
    """
    if not hasattr(distiller, 'teacher_recorders'):
        return True
    classifiers = classifying_layers(teacher)
    return any(_is_of_classes(recorder, classifiers) for recorder in recorders_of(distiller, 'teacher'))


def _is_of_classes(recorder: BaseRecorder, classifiers: list[str]) -> bool:
    source = recorder.source
    holds_classifier = any(f'{name}.'.startswith(f'{source}.') or not source for name in classifiers)
    if isinstance(recorder, ModuleInputsRecorder):
        return not holds_classifier and source.startswith('head')
    if isinstance(recorder, ModuleOutputsRecorder):
        return holds_classifier or source.startswith('head')
    return True


def make_plain(recorders: Iterable[BaseRecorder]) -> None:
    """Give what was recorded the precision that losses expect, whatever the networks compute in.

    Features in half precision become float32: on a CPU autocast leaves a softmax of logits, for one, as it is.

    Args:
        recorders: Their buffers are changed in place.
    """
    for recorder in recorders:
        buffer = recorder.data_buffer
        if isinstance(buffer, list):
            buffer[:] = [map_tensors(_plain, record) for record in buffer]


def forget(recorders: Iterable[BaseRecorder]) -> None:
    """Let go of what was recorded, so that it does not stay in memory over the backward pass.

    Args:
        recorders: Their buffers are emptied.
    """
    for recorder in recorders:
        recorder.reset_data_buffer()


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
