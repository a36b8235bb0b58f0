"""The outputs of a teacher that are stored: pooled feature, logits."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mmrazor.models.task_modules.recorder import ModuleInputsRecorder, ModuleOutputsRecorder
from torch import Tensor, nn

from icd_mmrazor.models.algorithms.records import recorders_of
from icd_mmrazor.models.distillers.mixed_distiller import plain_distillers
from icd_mmrazor.models.networks.classifier_layer import is_headless
from icd_mmrazor.models.networks.distillation_token import token_classifiers
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.features import Point, feature_points, output_of

RECORDERS = {'ModuleInputs': ModuleInputsRecorder, 'ModuleOutputs': ModuleOutputsRecorder}


def stored_points(teacher: nn.Module, source: str | None = None) -> dict[str, Point]:
    """Return the places of what is stored of a teacher: ``pooled`` and ``logits``, of several ``0.pooled`` and so on.

    Args:
        teacher: The teacher, or several.
        source: Name of its classifying layer; found by default.

    Raises:
        SettingError: The classifying layer cannot be found.
    """
    if not isinstance(teacher, TeacherEnsemble):
        # what pools the feature of a teacher without a classifier is not one
        found = feature_points(teacher, maps=False, classifier=None if is_headless(teacher) else source)
        # one with a distillation token predicts with the mean of two classifiers
        of_tokens = token_classifiers(teacher)
        logits = output_of(of_tokens.average) if of_tokens else found.logits
        return {'pooled': found.pooled, **({} if logits is None else {'logits': logits})}
    points = {
        f'{i}.{name}': replace(point, source=f'{i}.{point.source}')
        for i, member in enumerate(teacher.members)
        for name, point in stored_points(member).items()
    }
    return points if teacher.head is None else {**points, 'logits': output_of('head')}


def source_in(distiller: nn.Module) -> str | None:
    """Return the name of the teacher's classifying layer that a distiller has been told or has found, if any."""
    names = {getattr(each, 'teacher_source', None) for each in plain_distillers(distiller)} - {None, 'auto'}
    return names.pop() if len(names) == 1 else None


def other_records(distiller: nn.Module, points: Mapping[str, Point]) -> list[str]:
    """Return the names of the teacher's recorders that record something else than what is stored.

    What a delivery hands from the teacher to the student counts, too.
    """
    names = []
    for each in plain_distillers(distiller):
        if not hasattr(each, 'teacher_recorders'):
            return [type(each).__name__]
        recorders = each.teacher_recorders.recorders
        names += [name for name, recorder in recorders.items() if _name_of(recorder, points) is None]
        names += getattr(each.deliveries, 'deliveries', {})
    return names


def fill_recorders(distiller: nn.Module, points: Mapping[str, Point], outputs: Mapping[str, Tensor]) -> None:
    """Let the teacher's recorders hold outputs, ``B x ...`` each, as if the teacher had run."""
    for recorder in recorders_of(distiller, 'teacher'):
        output = outputs[_name_of(recorder, points)]
        recorder.reset_data_buffer()
        recorder.data_buffer.append((output,) if isinstance(recorder, ModuleInputsRecorder) else output)


def _name_of(recorder: Any, points: Mapping[str, Point]) -> str | None:
    for name, point in points.items():
        if type(recorder) is RECORDERS[point.type] and recorder.source == point.source:
            return name
    return None


@contextlib.contextmanager
def captured(teacher: nn.Module, points: Mapping[str, Point]) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs of a teacher in a forward pass within the context: a dictionary that is filled."""
    found: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack:
        for name, point in points.items():
            module = teacher.get_submodule(point.source)

            # copies: what follows in the network may work in place
            def before(_module: nn.Module, inputs: tuple, name: str = name) -> None:
                found[name] = inputs[0].detach().clone()

            def after(_module: nn.Module, _inputs: tuple, output: Tensor, name: str = name) -> None:
                found[name] = output.detach().clone()

            add = module.register_forward_pre_hook if point.type == 'ModuleInputs' else module.register_forward_hook
            stack.callback(add(before if point.type == 'ModuleInputs' else after).remove)
        yield found
