"""Predictions of a student, with what the metrics of a distillation compare them to."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import is_headless
from icd_mmrazor.models.networks.features import Point, feature_points

TEACHER, POOLED = 'teacher', 'pooled'
# what each adds to a data sample
FIELDS = {TEACHER: 'teacher_score', POOLED: 'feature'}


def checked_additions(names: Any) -> tuple[str, ...]:
    """Check the setting ``predict_also`` of a ``FrozenTeacherDistill``."""
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, list | tuple):
        raise SettingError(f'FrozenTeacherDistill: predict_also={names!r} must be a list of {", ".join(FIELDS)}.')
    for name in names:
        checks.one_of('FrozenTeacherDistill', 'predict_also', name, FIELDS)
    return tuple(names)


def refuse_missing_predictions(algorithm: Any) -> None:
    """Refuse ``predict_also=['teacher']`` for a teacher that predicts nothing."""
    reason = getattr(algorithm.teacher, 'why_not_evaluated', None)
    if TEACHER in algorithm.predict_also and reason:
        raise SettingError(
            f"FrozenTeacherDistill: predict_also=['teacher'], and the teacher cannot predict: {reason}. Set "
            'model.teacher_ckpt to its weights and model.teacher_cache.verify to a positive number.'
        )
    if TEACHER in algorithm.predict_also and is_headless(algorithm.teacher):
        raise SettingError(
            "FrozenTeacherDistill: predict_also=['teacher'], and the teacher has no classifier: it predicts nothing. "
            "Set predict_also=['pooled'] and val_evaluator=dict(type='KNNAccuracy'), which needs labelled images, or "
            'train a linear classifier on its feature first (LinearProbe).'
        )


def predictions_of(algorithm: Any, images: Tensor, data_samples: list | None) -> list:
    """Predict with the student, and add what ``predict_also`` names to each data sample.

    Args:
        algorithm: A ``FrozenTeacherDistill``.
        images: The batch, ``B x C x H x W``, as the data preprocessor gives it.
        data_samples: Its data samples.

    Returns:
        The student's predictions, with ``teacher_score`` (the teacher's probabilities, ``classes``) and ``feature``
        (what the student classifies, ``D``).
    """
    features = POOLED in algorithm.predict_also
    source = getattr(algorithm.distiller, 'student_source', None)
    with pooled_feature(algorithm.student, source) if features else contextlib.nullcontext([]) as found:
        predictions = algorithm.student(images, data_samples, mode='predict')
    if features:
        add_feature(predictions, found)
    if TEACHER in algorithm.predict_also:
        for sample, of_teacher in zip(predictions, algorithm.run_teacher(images, mode='predict'), strict=True):
            sample.set_field(of_teacher.pred_score.float(), FIELDS[TEACHER])
    return predictions


def add_feature(predictions: list, found: list[Tensor]) -> None:
    """Add to each data sample its ``feature``, of those that :func:`pooled_feature` has found."""
    for sample, feature in zip(predictions, found[-1].flatten(1).float(), strict=True):
        sample.set_field(feature, FIELDS[POOLED])


def has_pooled_feature(network: nn.Module, source: str | None = None) -> bool:
    """Return whether :func:`pooled_feature` finds a feature; there is none of several teachers at once, for example."""
    try:
        _pooled_point(network, source)
    except SettingError:
        return False
    return True


def _pooled_point(network: nn.Module, source: str | None) -> Point:
    classifier = None if source == 'auto' or is_headless(network) else source
    return feature_points(network, maps=False, classifier=classifier).pooled


@contextlib.contextmanager
def pooled_feature(network: nn.Module, source: str | None = None) -> Iterator[list[Tensor]]:
    """Keep the pooled feature of a network in the forward passes within the context: a list that they extend.

    Args:
        network: The network.
        source: Name of its classifying layer, if it has one; found if it is ``'auto'`` or None.
    """
    point = _pooled_point(network, source)
    found: list[Tensor] = []

    def record(_module: nn.Module, inputs: tuple, output: Any) -> None:
        data = inputs if point.type == 'ModuleInputs' else output
        data = data if point.data_idx is None else data[point.data_idx]
        found.append(data if point.layout is None else point.layout(data))

    handle = network.get_submodule(point.source).register_forward_hook(record)
    try:
        yield found
    finally:
        handle.remove()
