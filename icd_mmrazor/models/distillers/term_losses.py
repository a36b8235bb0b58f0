"""The losses of terms, built for the shapes of the features that they compare."""

import inspect
from collections.abc import Mapping
from typing import Any

from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.feature_terms import NETWORKS, Input, Term, class_of, is_logits
from icd_mmrazor.models.distillers.named_features import NamedFeatures
from icd_mmrazor.models.losses import FeatureLoss
from icd_mmrazor.models.networks.norms import norm_before_activation

# of a feature, or of several
Shape = tuple[int, ...] | tuple[tuple[int, ...], ...]


def build_for(cfg: Mapping[str, Any], given: Mapping[str, Any]) -> nn.Module:
    """Build a loss or connector, with those of the given arguments that its constructor has and the config does not."""
    cls = class_of(cfg)
    accepted = inspect.signature(cls).parameters
    # by its class, whatever the default scope is
    return MODELS.build({**{name: value for name, value in given.items() if name in accepted}, **cfg, 'type': cls})


def shapes_of(item: Input, features: Mapping[str, NamedFeatures]) -> Shape:
    """Return the shape of a feature, ``C x H x W`` or ``C``, or a tuple of those of several."""
    shapes = tuple(features[item.network].shapes[name] for name in item.features)
    return shapes[0] if isinstance(item.feature, str) else shapes


def given_by(term: Term, shapes: Mapping[str, Shape], features: Mapping[str, NamedFeatures]) -> dict[str, Any]:
    """Return what constructors of a term may ask for, by the names of their arguments.

    These are ``student_shape`` and ``teacher_shape``, or ``student_shapes`` of a list of features;
    ``teacher_classifier``, the linear layer, or None if it is not in memory; and ``teacher_norm`` for a pre-activation,
    the batch norm before the activation, or None if there is none.
    """
    given: dict[str, Any] = {'teacher_classifier': getattr(features['teacher'], 'classifier', None)}
    for argument, item in term.inputs.items():
        given[f'{item.network}_shape{"s" if isinstance(item.feature, tuple) else ""}'] = shapes[argument]
        if item.network == 'teacher' and isinstance(item.feature, str):
            teacher = features['teacher']
            given['teacher_norm'] = norm_before_activation(teacher.model, teacher.points[item.feature])
    return given


def loss_of(
    owner: str, term: Term, shapes: Mapping[str, Shape], sources: Mapping[str, str], given: Mapping[str, Any]
) -> nn.Module:
    """Build the loss of a term, or take the one that is built already, with its share of the weight.

    Args:
        owner: Who has the term, for messages.
        term: The term.
        shapes: The shape of each argument, ``C x H x W`` or ``C``, before its connector.
        sources: The classifying layer of each network, for messages.
        given: What its constructor may ask for (:func:`given_by`).

    Raises:
        SettingError: Its weight cannot be shared, or it does not take these shapes.
    """
    loss = term.loss if isinstance(term.loss, nn.Module) else build_for(term.loss, given)
    if term.decay != 1:
        if not checks.is_number(getattr(loss, 'loss_weight', None)):
            raise SettingError(
                f'{owner}: {term.name} has a decay, but its {type(loss).__name__} has no loss_weight that is a number. '
                'Remove the decay, or use another loss.'
            )
        loss.loss_weight *= term.decay
    plain_logits = all(
        isinstance(item.feature, str) and is_logits(item.feature) and item.connector is None
        for item in term.inputs.values()
    )
    # a FeatureLoss may compare images instead of classes
    of_classes = not isinstance(loss, FeatureLoss) or loss.same_width_by
    if plain_logits and of_classes and len({*shapes.values()}) > 1:
        width = {item.network: shapes[argument][0] for argument, item in term.inputs.items()}
        student, teacher = (width.get(network) for network in NETWORKS)
        raise SettingError(
            f'{owner}: {term.name} compares logits, but the teacher has {teacher} classes ({sources["teacher"]}) and '
            f'the student {student} ({sources["student"]}). Use a teacher of the same classes, or leave out '
            f'{term.name}.'
        )
    if hasattr(loss, 'check_shapes'):
        loss.check_shapes(**shapes)
    return loss


def logged_terms(losses: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return what losses have in ``terms`` after a forward pass, for the log: ``icd_tau`` of ``loss_icd``.

    mmengine adds up everything with "loss" in its name, so these names have none.
    """
    terms = {}
    for name, loss in losses.items():
        words = [word for word in name.replace('loss', '').split('_') if word]
        terms.update({'_'.join([*words, term]): value for term, value in getattr(loss, 'terms', {}).items()})
    return terms
