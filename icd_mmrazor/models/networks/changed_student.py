"""Students that their distiller changes."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmpretrain.models import ImageClassifier
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.configuration.type_names import dicts, registered, type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classified_map import classified_map
from icd_mmrazor.models.networks.classifier_layer import find_classifier, is_headless, linear_layer, number_of_classes
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.features import usual_image_shape
from icd_mmrazor.models.networks.headless import as_teacher
from icd_mmrazor.models.networks.hubs import published_by_timm
from icd_mmrazor.models.networks.image_size import image_shape_seen, tell_image_size
from icd_mmrazor.models.networks.last_map import cut_after_last_map, map_shape
from icd_mmrazor.models.networks.resolve import class_of, network_config
from icd_mmrazor.models.networks.untrained import untrained

OWNER = 'SimKDDistiller'
CHANGED = 'ProjectedClassifier'
LINEAR = ('LinearClsHead', 'MultiLabelLinearClsHead')
# settings of the student's own head that stay
OF_HEAD = ('loss', 'topk', 'cal_acc')


def changing_distiller(distiller: Any) -> Mapping[str, Any] | None:
    """Return the part of the config of a distiller that changes the student; None if it stays as it is.

    Raises:
        SettingError: There are several.
    """
    kinds = [(part, type_name(part.get('type'))) for part in dicts(distiller)]
    found = [
        part
        for part, kind in kinds
        if kind and any(getattr(each, 'changes_student', False) for each in registered(kind))
    ]
    if len(found) > 1:
        raise SettingError(f'{OWNER}: {len(found)} distillers change the student. Leave one of them.')
    return found[0] if found else None


def changed_config(model: Mapping[str, Any], teacher: nn.Module | None = None) -> ConfigDict | None:
    """Return the config of a distillation's student as its distiller changes it; None if it does not.

    Both networks are built without their weights to find the shapes of their maps.

    Args:
        model: The settings of the distillation: ``distiller``, ``architecture``, ``teacher`` or ``teachers``, and
            those of the teacher's images.
        teacher: The teacher, if it is not to be built.

    Raises:
        SettingError: The two networks do not fit together in this way; the message says why.
    """
    settings = changing_distiller(model.get('distiller'))
    if settings is None:
        return None
    student = network_config(copy.deepcopy(model['architecture']), 'model.architecture')
    if type_name(student.type) == CHANGED:
        return student
    _check_kind(class_of(student))
    teacher = _teacher_in(model, settings) if teacher is None else teacher
    kind = f'mmpretrain.{CHANGED}' if str(student.type).startswith('mmpretrain.') else CHANGED
    parts = _parts(untrained(student), teacher, settings, student.get('head') or {})
    return ConfigDict({**student, 'type': kind, **parts})


def record_changed_student(model: ConfigDict) -> None:
    """Write the student as its distiller changes it into the config of a distillation, in full."""
    if (student := changed_config(model)) is not None:
        model.architecture = student


def student_with_classifier(model: Mapping[str, Any], teacher: nn.Module) -> Any:
    """Return the student of a distillation, changed and with its teacher's classifier if its distiller does so.

    Args:
        model: The settings of the distillation, as :func:`changed_config` takes them; networks may be built.
        teacher: The teacher or teachers, with their weights.

    Returns:
        The built student; ``model['architecture']`` itself if the distiller does not change it.

    Raises:
        SettingError: The two networks do not fit together in this way; the message says why.
    """
    settings, student = changing_distiller(model['distiller']), model['architecture']
    if settings is None:
        return student
    if getattr(teacher, 'is_stored', False):
        raise SettingError(
            f"{OWNER} copies the teacher's classifier and compares its map, but only outputs of the teacher are in "
            'memory. Set model.teacher_ckpt to its weights, and model.teacher_cache=None.'
        )
    teacher = _one_of(teacher, settings)
    if not isinstance(student, nn.Module):
        # as it is found in the config later, when there are no weights
        in_config = not any(isinstance(each.get('teacher'), nn.Module) for each in _teachers_in(model))
        student = MODELS.build(changed_config(model, None if in_config else teacher))
    elif not hasattr(student, 'take_classifier'):
        student = _changed_module(student, teacher, settings)
    layer = linear_layer(teacher, _source(teacher, settings), 'teacher_source')
    _check_fit(student, layer, settings)
    student.take_classifier(layer)
    print_log(f'{OWNER}: the student is {student.change}', 'current')
    return student


def _changed_module(student: nn.Module, teacher: nn.Module, settings: Mapping[str, Any]) -> nn.Module:
    _check_kind(type(student))
    head = {} if student.head is None else {'type': type(student.head).__name__}
    parts = _parts(student, teacher, settings, head)
    changed = MODELS.build(
        dict(
            _scope_='mmpretrain',
            type=CHANGED,
            backbone=student.backbone,
            data_preprocessor=student.data_preprocessor,
            init_cfg=student.init_cfg,
            **parts,
        )
    )
    for name in ('loss_module', 'thr', *OF_HEAD[1:]):
        if hasattr(student.head, name):
            setattr(changed.head, name, getattr(student.head, name))
    return changed


def _parts(
    student: nn.Module, teacher: nn.Module, settings: Mapping[str, Any], head: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the configs of projector and head for two networks; ``head`` is that of the student's own."""
    source = _source(teacher, settings)
    layer = linear_layer(teacher, source, 'teacher_source')
    classes = None if is_headless(student) else number_of_classes(student)
    if classes not in (None, layer.out_features):
        raise SettingError(
            f"{OWNER}: the student gets the teacher's classifier, of {layer.out_features} classes, but has {classes} "
            'itself. Use a teacher of the same classes.'
        )
    image_shape = tuple(settings.get('image_shape') or usual_image_shape(student))
    found = classified_map(teacher, source, image_shape_seen(teacher, image_shape), f'{OWNER}: the teacher')
    backbone = copy.deepcopy(student.backbone)
    cut_after_last_map(backbone)
    own = map_shape(backbone, image_shape, f'{OWNER}: the student')
    neck: dict[str, Any] = dict(type='SimKDProjector', in_channels=own[0], out_channels=found.shape[0])
    if 'factor' in settings:
        neck['factor'] = settings['factor']
    if any(mine > other for mine, other in zip(own[1:], found.shape[1:], strict=True)):
        neck['size'] = found.shape[1:]
    if found.has_negatives:
        neck['last_relu'] = False
    kind = type_name(head.get('type'))
    kept = {name: head[name] for name in (*OF_HEAD, *(['thr'] if kind == LINEAR[1] else [])) if name in head}
    widths = dict(num_classes=layer.out_features, in_channels=layer.in_features)
    return dict(neck=neck, head=dict(type=kind if kind in LINEAR else LINEAR[0], **widths, init_cfg=None, **kept))


def _check_kind(student: type | None) -> None:
    if student is not ImageClassifier:
        raise SettingError(
            f'{OWNER}: the student is a {getattr(student, "__name__", student)}. It must be an ImageClassifier of '
            'mmpretrain, whose backbone returns maps; one of timm is dict(type="ImageClassifier", backbone='
            'dict(type="TIMMBackbone", model_name=..., features_only=True)).'
        )


def _check_fit(student: nn.Module, layer: nn.Linear, settings: Mapping[str, Any]) -> None:
    """Refuse a projector or head that is given in the config, and does not fit."""
    own, first = student.classifier, student.neck.layers[0]
    shape = tuple(settings.get('image_shape') or usual_image_shape(student))
    wanted = {
        'neck.in_channels': (first.in_channels, map_shape(student.backbone, shape, f'{OWNER}: the student')[0]),
        'neck.out_channels': (student.neck.layers[6].out_channels, layer.in_features),
        'head.in_channels': (own.in_features, layer.in_features),
        'head.num_classes': (own.out_features, layer.out_features),
    }
    for name, (found, expected) in wanted.items():
        if found != expected:
            raise SettingError(
                f'{OWNER}: model.architecture.{name}={found} must be {expected} for these networks. Correct it, or '
                'give the student without a projector.'
            )


def _source(teacher: nn.Module, settings: Mapping[str, Any]) -> str:
    source = settings.get('teacher_source') or 'auto'
    member = settings.get('teacher_member')
    source = source if member is None else source.removeprefix(f'{member}.')
    return find_classifier(teacher, 'teacher_source') if source == 'auto' else source


def _teachers_in(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the settings of the teacher, or of each of several."""
    return [{**model, **each} for each in model.get('teachers') or [{}]]


def _teacher_in(model: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
    """Build the teacher whose map the student learns, without its weights."""
    number = settings.get('teacher_member')
    several = _teachers_in(model)
    one = several[_member(number, len(several))]
    network = as_teacher(
        untrained(network_config(one.get('teacher'), 'model.teacher')), one.get('teacher_feature', 'auto')
    )
    published = None if one.get('random_teacher') else published_by_timm(network)
    size = tuple(published['input_size'][-2:]) if published else None
    tell_image_size(network, one.get('teacher_preprocessor', 'auto'), size)
    return network


def _one_of(teacher: nn.Module, settings: Mapping[str, Any]) -> nn.Module:
    """Return the teacher whose map the student learns."""
    members = teacher.members if isinstance(teacher, TeacherEnsemble) else [teacher]
    number = settings.get('teacher_member')
    return members[_member(getattr(teacher, 'main_member', None) if number is None else number, len(members))]


def _member(number: Any, teachers: int) -> int:
    if teachers == 1:
        return 0
    if type(number) is not int or not 0 <= number < teachers:
        raise SettingError(
            f'{OWNER}: teacher_member={number!r} must say which of {teachers} teachers the student learns the map of, '
            f'from 0 to {teachers - 1}.'
        )
    return number
